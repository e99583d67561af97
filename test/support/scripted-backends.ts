/**
 * Backends whose answers a test scripts, behind a client with the real queue and routing. Timers run when the test says so. A token depends
 * on seed and position alone.
 */

import type { Backend } from "../../edge/dispatch/backend-group.ts";
import { CallFailure, type FailureKind } from "../../edge/dispatch/call-failure.ts";
import type { BackendCalls, BatchCall, OpenBatch } from "../../edge/dispatch/client.ts";
import { Dispatcher, type DispatcherParts } from "../../edge/dispatch/dispatcher.ts";
import type { Router } from "../../edge/dispatch/router.ts";
import { createRouting } from "../../edge/dispatch/routing.ts";
import { queueLimits } from "../../edge/dispatch/routing-limits.ts";
import type { Region } from "../../edge/platform/region.ts";
import type { BackendLoad } from "../../shared/contracts/backend-headers.ts";
import {
  type BatchRequest,
  type Frame,
  isLast,
  type Readiness,
  type SequenceRequest,
} from "../../shared/contracts/inference.ts";
import type { Jurisdiction } from "../../shared/contracts/tenant-name.ts";
import { type ErrorKind, ServiceError } from "../../shared/errors.ts";
import { uniformAt } from "../../shared/math/sampling.ts";
import { batchRequest, doneFrame, tokenFrame } from "./frames.ts";

/** All frames of a sequence if nothing fails. A continued sequence starts after its known tokens. */
export function framesFor({ id, continuedIds, maxTokens, sampling, promptLogprobs }: SequenceRequest): Frame[] {
  const tokens: Frame[] = [];
  for (let i = continuedIds.length; i < maxTokens; i++) {
    tokens.push(tokenFrame(id, i, Math.floor(uniformAt(sampling.seed ?? 0, i) * 1000)));
  }
  const prompt: Frame[] = promptLogprobs ? [{ type: "prompt", id, logprobs: [null], alternatives: [[]] }] : [];
  return [...prompt, ...tokens, { ...doneFrame(id), completionTokens: maxTokens }];
}

export function callFailure(kind: FailureKind, retryAfterSeconds = 2, process: string | null = null): CallFailure {
  const errors: Partial<Record<FailureKind, ErrorKind>> = {
    overloaded: "overloaded",
    refused: "internal",
    diverging: "numerics_mismatch",
  };
  const error = errors[kind] ?? "backend_unavailable";
  const options = kind === "refused" ? {} : { retryAfterSeconds };
  return new CallFailure(kind, new ServiceError(error, kind, options), process);
}

/** Options of a sequence's first call, which any process may take. */
export function firstCall(signal: AbortSignal): BatchCall {
  return { signal, numerics: null, process: null };
}

export class ScriptedCall {
  readonly batch: BatchRequest;
  readonly signal: AbortSignal;
  /** Numerics fingerprint of the backend that began the sequences; null if none did. */
  readonly wantedNumerics: string | null;
  /** Process that the call is for; null: any. */
  readonly process: string | null;
  readonly #accepted = Promise.withResolvers<OpenBatch>();
  readonly #groups: (Frame[] | Error | null)[] = [];
  #wake = () => {};

  constructor(batch: BatchRequest, { signal, numerics, process }: BatchCall) {
    this.batch = batch;
    this.signal = signal;
    this.wantedNumerics = numerics;
    this.process = process;
    signal.addEventListener("abort", () => {
      this.#accepted.reject(callFailure("unreachable"));
      void this.fail("broken");
    });
  }

  get accepted(): Promise<OpenBatch> {
    return this.#accepted.promise;
  }

  get ids(): string[] {
    return this.batch.sequences.map(({ id }) => id);
  }

  /** Accepts the call. The backend reports these numerics, process name and load; null: none. */
  async accept(
    numerics: string | null = null,
    process: string | null = null,
    load: BackendLoad | null = null,
  ): Promise<void> {
    this.#accepted.resolve({ process, numerics, load, frames: this.#stream() });
    await turn();
  }

  async refuse(failure: CallFailure): Promise<void> {
    this.#accepted.reject(failure);
    await turn();
  }

  async send(...frames: Frame[]): Promise<void> {
    this.#groups.push(frames);
    this.#wake();
    await turn();
  }

  /** null ends the answer properly. */
  async fail(kind: FailureKind | null): Promise<void> {
    this.#groups.push(kind ? callFailure(kind) : null);
    this.#wake();
    await turn();
  }

  async *#stream(): AsyncGenerator<Frame[]> {
    for (;;) {
      for (let next = this.#groups.shift(); next !== undefined; next = this.#groups.shift()) {
        if (next === null) return;
        if (next instanceof Error) throw next;
        yield next;
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

export class ScriptedBackend implements BackendCalls {
  readonly calls: ScriptedCall[] = [];
  readonly cancelled: string[] = [];
  /** For each cancelling call, the process that it named. */
  readonly cancelledAt: (string | null)[] = [];
  ready: Readiness | null = null;
  probes = 0;
  answer: (call: ScriptedCall) => void = () => {};

  openBatch(batch: BatchRequest, wanted: BatchCall): Promise<OpenBatch> {
    const call = new ScriptedCall(batch, wanted);
    this.calls.push(call);
    this.answer(call);
    return call.accepted;
  }

  async cancel(ids: string[], process: string | null): Promise<void> {
    this.cancelled.push(...ids);
    this.cancelledAt.push(process);
  }

  async readiness(): Promise<Readiness | null> {
    this.probes++;
    return this.ready;
  }

  get last(): ScriptedCall {
    return this.calls[this.calls.length - 1];
  }
}

export type ScriptedRouting = ReturnType<typeof scriptedRouting>;

export interface ScriptedRoutingOptions extends Pick<DispatcherParts, "retries"> {
  regions?: (Region | null)[];
  region?: Region;
  jurisdiction?: Jurisdiction;
  /** Default: b0, b1 and so on. */
  urls?: string[];
}

export function scriptedRouting(count: number, options: ScriptedRoutingOptions = {}) {
  const { regions = [], region = null, jurisdiction = null, ...budgets } = options;
  const names = options.urls ?? Array.from({ length: count }, (_, i) => `b${i}`);
  const backends = names.map(() => new ScriptedBackend());
  const events: string[] = [];
  const failures: Error[] = [];
  const works: Promise<void>[] = [];
  const timers = new Map<object, { atMs: number; work: () => void }>();
  let clockMs = 0;
  const routing = createRouting({
    addresses: names.map((url, i) => ({ url, region: regions[i] ?? null })),
    clientOf: ({ url }) => backends[names.indexOf(url)],
    region,
    jurisdiction,
  });
  const limits = { ...queueLimits };
  const client = new Dispatcher({
    ...budgets,
    limits,
    routing: () => routing,
    observe({ event, backend, sequences, failure }) {
      if (failure) failures.push(failure);
      else events.push([event.replace("_", " "), backend, sequences ?? []].flat().join(" "));
    },
    now: () => clockMs,
    after(ms, work) {
      timers.set({}, { atMs: clockMs + ms, work });
    },
    keepAlive: (work) => void works.push(work),
  });
  return {
    ...routing,
    client,
    limits,
    names,
    backends,
    events,
    failures,
    async pass(ms: number): Promise<void> {
      clockMs += ms;
      for (const [key, { atMs, work }] of timers) {
        if (atMs > clockMs) continue;
        timers.delete(key);
        work();
      }
      await turn();
    },
    timers: () => timers.size,
    settled: () => Promise.all(works),
  };
}

export function runBatch(routing: ScriptedRouting, sequences: SequenceRequest[]) {
  const received: Frame[] = [];
  const begun = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<void>();
  begun.promise.catch(() => {});
  const left = new Set(sequences.map(({ id }) => id));
  let isBegun = false;
  const end = (id: string, error?: Frame) => {
    left.delete(id);
    if (left.size > 0) return;
    if (!isBegun && error) begun.reject(error);
    ended.resolve();
  };
  const submitted = new Map(
    sequences.map((one, i) => {
      // No connection is free until the last sequence is submitted, so that all leave in the same call.
      routing.limits.connections = i < sequences.length - 1 ? 0 : 6;
      const cancelOne = routing.client.submit(batchRequest([one], { centroidId: "c0" }), {
        accepted: () => {
          isBegun = true;
          begun.resolve();
        },
        receive: (frames) => {
          received.push(...frames);
          for (const frame of frames) if (isLast(frame)) end(frame.id, frame);
        },
      });
      return [one.id, cancelOne] as const;
    }),
  );
  const cancel = (ids: readonly string[]) => {
    for (const id of ids) {
      submitted.get(id)?.();
      end(id);
    }
  };
  const run = { cancel, stop: () => cancel([...submitted.keys()]) };
  const of = (id: string) => received.filter((frame) => frame.id === id);
  return { run, received, begun: begun.promise, ended: ended.promise, of };
}

/** The backend at `url` among those that a new router chooses. */
export function backendAt(router: Router, url: string): Backend {
  const tried = new Set<string>();
  for (;;) {
    const choice = router.choose({ manifestHash: "", centroidId: null }, tried, 0);
    if (!choice) throw new Error(`there is no ${url}`);
    if (choice.backend.address.url === url) return choice.backend;
    tried.add(choice.backend.id);
  }
}

export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
