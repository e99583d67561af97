/** A backend that a test scripts: MSW answers its HTTP. */

import { delay, HttpResponse, http } from "msw";
import {
  type BatchRequest,
  batchRequestSchema,
  type Frame,
  type SequenceRequest,
} from "../../shared/contracts/inference.ts";
import { frameLine } from "../../shared/contracts/ndjson.ts";
import { doneFrame, tokenFrame } from "../support/frames.ts";
import type { MaybePromise } from "./answers.ts";
import { network } from "./network.ts";

export const backendUrl = "http://127.0.0.1:8788";

export interface Seen {
  batches: BatchRequest[];
  headers: Headers[];
  bytes: Uint8Array[];
  cancelled: string[];
}

/** Answers each batch with frames, each in a chunk of its own. Sequences take turns. */
export function backendAnswers(script: (sequence: SequenceRequest, batch: BatchRequest) => Frame[]): Seen {
  return backendStreams((batch) => {
    return framesStream(inTurns(batch.sequences.map((sequence) => script(sequence, batch))));
  });
}

/** Takes one frame of each sequence in turn. */
export function inTurns(rows: readonly Frame[][]): Frame[] {
  const longest = Math.max(...rows.map((row) => row.length));
  return Array.from({ length: longest }, (_, i) => rows.flatMap((row) => row.slice(i, i + 1))).flat();
}

export function backendStreams(
  body: (batch: BatchRequest, signal: AbortSignal) => MaybePromise<ReadableStream<Uint8Array> | Response>,
): Seen {
  const seen: Seen = { batches: [], headers: [], bytes: [], cancelled: [] };
  network.use(
    http.post(`${backendUrl}/v1/batches`, async ({ request }) => {
      // Throws if the batch breaks the contract.
      const bytes = new Uint8Array(await request.arrayBuffer());
      const batch = batchRequestSchema.parse(JSON.parse(new TextDecoder().decode(bytes)));
      seen.bytes.push(bytes);
      seen.batches.push(batch);
      seen.headers.push(request.headers);
      const made = await body(batch, request.signal);
      return made instanceof Response
        ? made
        : new HttpResponse(made, { headers: { "content-type": "application/x-ndjson" } });
    }),
    http.post(`${backendUrl}/v1/cancellations`, async ({ request }) => {
      seen.cancelled.push(...((await request.json()) as { ids: string[] }).ids);
      return new HttpResponse(null, { status: 204 });
    }),
  );
  return seen;
}

export const lacks = (code: "adapter_not_found" | "memory_not_found") =>
  HttpResponse.json({ error: { message: "not here", code } }, { status: 404 });

export const framesStream = (frames: readonly Frame[]) => byteStream(frames.map(frameLine));

export function byteStream(chunks: readonly (string | Uint8Array)[]): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  const rest = [...chunks];
  return new ReadableStream({
    async pull(controller) {
      await delay(0);
      const chunk = rest.shift();
      if (chunk === undefined) controller.close();
      else controller.enqueue(typeof chunk === "string" ? encoder.encode(chunk) : chunk);
    },
  });
}

/**
 * A body whose chunks come when the test sends them. The runtime lets neither test nor cell await the other's streams. So `open` makes the
 * stream where it is read, and polls plain fields.
 */
export class LateBody {
  /** false: `open` waits, as a backend that has not accepted the call. */
  accepted = true;
  cancelled = false;
  readonly #chunks: string[] = [];
  #end: "close" | "fail" | null = null;

  /** The request's `signal` ends the body, as on a real connection. */
  async open(signal: AbortSignal): Promise<ReadableStream<Uint8Array>> {
    signal.addEventListener("abort", () => {
      this.cancelled = true;
    });
    while (!this.accepted) await delay(1);
    const encoder = new TextEncoder();
    return new ReadableStream({
      pull: async (controller) => {
        while (this.#chunks.length === 0 && !this.#end && !this.cancelled) await delay(1);
        if (this.cancelled) controller.error(signal.reason);
        else if (this.#chunks.length > 0) controller.enqueue(encoder.encode(this.#chunks.shift()));
        else if (this.#end === "fail") controller.error(new TypeError("connection lost"));
        else if (this.#end === "close") controller.close();
      },
      cancel: () => {
        this.cancelled = true;
      },
    });
  }

  get isTaken(): boolean {
    return this.#chunks.length === 0;
  }

  send(...frames: Frame[]): void {
    this.#chunks.push(frames.map(frameLine).join(""));
  }

  end(how: "close" | "fail" = "close"): void {
    this.#end = how;
  }
}

export function lateBackend(calls: number) {
  const bodies = Array.from({ length: calls }, () => new LateBody());
  const seen = backendStreams(
    (_, signal) => bodies[seen.batches.length - 1]?.open(signal) ?? new Response(null, { status: 500 }),
  );
  const finish = (call: number) => {
    for (const { id } of seen.batches[call].sequences) bodies[call].send(tokenFrame(id, 0, 98), doneFrame(id));
    bodies[call].end();
  };
  return { bodies, seen, finish };
}

/** Frames of a completion that says `text`. A byte is a token: ids below 256 are bytes in the tiny model. */
export function saying(
  id: string,
  text: string | Uint8Array,
  options: { logprob?: number; finish?: "stop" | "length" } = {},
): Frame[] {
  const bytes = [...(typeof text === "string" ? new TextEncoder().encode(text) : text)];
  const tokens = bytes.map((byte, i) => {
    const { logprob } = options;
    const extra = logprob === undefined ? {} : { logprob, alternatives: [[byte, logprob] as [number, number]] };
    return { ...tokenFrame(id, i, byte), ...extra };
  });
  return [...tokens, { ...doneFrame(id), finishReason: options.finish ?? "length", completionTokens: bytes.length }];
}

/** A token depends on seed and index alone, as with a real backend. */
export const seededToken = ({ sampling: { seed } }: SequenceRequest, index: number) =>
  97 + ((seed! + 7 * index + index ** 2) % 26);

/** All frames of a sequence, with the logprobs and prompt scores that it asks for. */
export function seededFrames(sequence: SequenceRequest): Frame[] {
  const { id, maxTokens, sampling, promptLogprobs, promptIds } = sequence;
  const scored = { logprob: -0.5, alternatives: [[97, -1] as [number, number]] };
  const tokens = Array.from({ length: maxTokens }, (_, i) => ({
    ...tokenFrame(id, i, seededToken(sequence, i)),
    ...(sampling.logprobs !== undefined && scored),
  }));
  const logprobs = promptIds.map((_, i) => (i === 0 ? null : -1));
  const prompt = { type: "prompt" as const, id, logprobs, alternatives: promptIds.map(() => []) };
  return [...(promptLogprobs ? [prompt] : []), ...tokens, { ...doneFrame(id), completionTokens: maxTokens }];
}
