/** Streaming requests of every kind, and the parts of their answers that must not change when a backend fails. */
import { readFileSync } from "node:fs";
import type { CompletionResponse } from "../../shared/contracts/responses.ts";
import { smallArtifacts } from "../support/small-base.ts";

export interface Body {
  model: string;
  prompt: string | string[];
  max_tokens: number;
  temperature: number;
  stream: true;
  stream_options: { include_usage: true };
  [option: string]: unknown;
}

/** What a client has received of a stream's answer: at first nothing. */
const newAnswer = () => ({
  /** The stream, joined over its chunks. Equal for equal completions. */
  seen: {
    ...{ texts: [] as string[], finishes: [] as (string | null)[], logprobs: [] as unknown[] },
    ...{ compared: [] as unknown[], centroids: [] as unknown[], usage: null as unknown },
    /** By choice: the experts with their weights, and the evidence. */
    experts: [] as unknown[],
  },
  /** Fingerprints of artifacts that the stream's chunks name. */
  fingerprints: new Set<string>(),
  /** The reason of a failure; null without one. */
  failure: "the stream ended without [DONE]" as string | null,
  chunks: 0,
});
export type Answer = ReturnType<typeof newAnswer>;

const openings = [
  "It is a truth universally acknowledged, that a single man in possession of",
  "If Tom has 5 apples and buys 3 more, how many",
  "=head1 NAME\n\nperlfunc - Perl builtin functions\n\n=head1",
  "The jargon of hackers has a word for this:",
  "To install the package, run",
  "Below is an instruction that describes a task.",
];

/**
 * All centroids of the small base. The backend that a centroid prefers depends on the backends' ports, which differ between
 * runs; with few centroids, all might prefer the backend that a test does not harm.
 */
export const shippedCentroids: readonly string[] = (
  JSON.parse(readFileSync(`${smallArtifacts}/manifest.json`, "utf8")) as { centroids: { id: string }[] }
).centroids.map(({ id }) => id);

/** Makes the same requests for the same `count`: greedy and seeded ones, with everything that a stream can carry. */
export function requestsOf(count: number, tokens: number): Body[] {
  const models = ["gpt2:auto", "gpt2", ...shippedCentroids.map((id) => `gpt2:${id}`)];
  return Array.from({ length: count }, (_, i): Body => {
    const options = [
      {},
      { logprobs: 2, echo: true },
      { chameleon: { compare: true } },
      { n: 2 },
      { stop: ["\n", " the"] },
      { frequency_penalty: 0.6, presence_penalty: 0.2 },
      { logit_bias: { "13": 4 } },
    ][i % 7];
    return {
      // At least a third of the requests ask for mixtures.
      model: i % 3 === 0 ? "gpt2:auto" : models[i % models.length],
      prompt: `${openings[i % openings.length]}${" again".repeat(i % 5)}`,
      max_tokens: tokens + (i % 3) * 8,
      temperature: i % 2 ? 0.9 : 0,
      seed: i,
      stream: true,
      stream_options: { include_usage: true },
      chameleon: {},
      ...options,
    };
  });
}

/** Sends requests and counts the chunks of their answers. */
export class Traffic {
  readonly #edge: { url: string; key: string };
  #chunks = 0;
  readonly #waiting: { chunks: number; resolve: () => void }[] = [];

  constructor(edge: { url: string; key: string }) {
    this.#edge = edge;
  }

  /** Resolves when all streams together have received `chunks` chunks. */
  seen(chunks: number): Promise<void> {
    return new Promise((resolve) => this.#waiting.push({ chunks, resolve }));
  }

  /** Sends all requests at once. */
  run(bodies: readonly Body[]): Promise<Answer[]> {
    return Promise.all(bodies.map((body) => this.#ask(body)));
  }

  async #ask(body: Body): Promise<Answer> {
    const answer = newAnswer();
    try {
      const response = await fetch(`${this.#edge.url}/v1/completions`, {
        method: "POST",
        headers: { "content-type": "application/json", authorization: `Bearer ${this.#edge.key}` },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(120_000),
      });
      if (response.status !== 200) throw new Error(`${response.status} ${await response.text()}`);
      for await (const data of eventsOf(response.body!)) {
        if (data === "[DONE]") {
          if (answer.failure?.startsWith("the stream")) answer.failure = null;
        } else if (data.startsWith('{"error"')) answer.failure = data;
        else {
          answer.chunks++;
          const chunk: CompletionResponse = JSON.parse(data);
          answer.fingerprints.add(chunk.system_fingerprint);
          this.#add(answer.seen, chunk);
        }
      }
    } catch (error) {
      answer.failure = String(error);
    }
    return answer;
  }

  #add(seen: Answer["seen"], chunk: CompletionResponse): void {
    this.#chunks++;
    for (const { chunks, resolve } of this.#waiting) if (this.#chunks >= chunks) resolve();
    for (const { index, text, finish_reason, logprobs, chameleon } of chunk.choices) {
      seen.texts[index] = (seen.texts[index] ?? "") + text;
      seen.finishes[index] = finish_reason ?? seen.finishes[index] ?? null;
      if (logprobs) seen.logprobs.push([index, logprobs]);
      if (chameleon?.compare) seen.compared.push([index, chameleon.compare]);
      if (chameleon?.centroid) seen.centroids[index] = [chameleon.centroid, chameleon.adapter?.hash ?? null];
      if (chameleon?.experts) seen.experts[index] = [chameleon.experts, chameleon.evidence];
    }
    if (chunk.usage) {
      // The number of cached prompt tokens depends on the backend that answers.
      const { prompt_tokens_details: _, ...usage } = chunk.usage;
      seen.usage = usage;
    }
  }
}

/** The data of server-sent events. */
async function* eventsOf(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let rest = "";
  for await (const text of body.pipeThrough(new TextDecoderStream())) {
    const events = (rest + text).split("\n\n");
    rest = events.pop()!;
    for (const event of events) if (event.startsWith("data: ")) yield event.slice("data: ".length);
  }
}
