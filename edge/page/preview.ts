/** What would answer the prompt, while it is typed: its experts' weights, and how near each domain is. */

import { limits } from "../../shared/contracts/limits.ts";
import type { AssignResponse, ChameleonBlock, CompletionResponse } from "../../shared/contracts/responses.ts";
import { type Api, failureText, isAbort } from "./api.ts";
import { type Answerer, wishOf } from "./request.ts";

/** What the API says of a prompt. */
export interface Reading {
  prompt: string;
  promptTokens: number;
  block: ChameleonBlock;
  /** Cosine with each domain, nearest first. */
  near: { id: string; similarity: number }[];
}

/** Pause in typing after which the prompt is read, in milliseconds. */
const pauseMs = 350;

export interface Wanted {
  prompt: string;
  answerer: Answerer;
  evidenceTokens: number | null;
}

export class Preview {
  readonly #api: Api;
  readonly #show: (reading: Reading | null, failure: string) => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #running = new AbortController();
  #latest: { wanted: string; reading: Promise<Reading> } | null = null;

  constructor(api: Api, show: (reading: Reading | null, failure: string) => void) {
    this.#api = api;
    this.#show = show;
  }

  /** Reads what `wanted` says once typing pauses. */
  soon(wanted: () => Wanted): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.attempt(wanted), pauseMs);
  }

  /** Reads and shows it now. What fails is shown, too. */
  async attempt(wanted: () => Wanted): Promise<void> {
    try {
      await this.now(wanted());
    } catch (error) {
      if (!isAbort(error)) this.#show(null, failureText(error));
    }
  }

  /** Reads and shows it now; the same wish is read once. */
  now(wanted: Wanted): Promise<Reading> {
    clearTimeout(this.#timer);
    const name = JSON.stringify(wanted);
    if (this.#latest?.wanted === name) return this.#latest.reading;
    this.#running.abort();
    this.#running = new AbortController();
    const reading = this.#read(wanted, this.#running.signal);
    this.#latest = { wanted: name, reading };
    reading.then(
      (done) => this.#show(done, ""),
      (error: unknown) => {
        if (this.#latest?.wanted === name) this.#latest = null;
        if (!isAbort(error)) this.#show(null, failureText(error));
      },
    );
    return reading;
  }

  async #read({ prompt, answerer, evidenceTokens }: Wanted, signal: AbortSignal): Promise<Reading> {
    const body = {
      prompt,
      max_tokens: 1,
      temperature: 0,
      ...wishOf(answerer, evidenceTokens, false),
    };
    const [completion, assigned] = await Promise.all([
      this.#api.json<CompletionResponse>("/v1/completions", body, { signal }),
      this.#api.json<AssignResponse>("/v1/assign", { input: prompt, top: limits.assignTop }, { signal }),
    ]);
    const [choice] = completion.choices;
    const { centroid, similarity, runners_up } = assigned.data[0];
    const others = runners_up.map((one) => ({ id: one.centroid, similarity: one.similarity }));
    return {
      prompt,
      promptTokens: completion.usage!.prompt_tokens,
      block: choice.chameleon as ChameleonBlock,
      near: [{ id: centroid, similarity }, ...others],
    };
  }
}
