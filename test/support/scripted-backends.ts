/**
 * Backends whose every answer a test gives, and the routing between them: real routing, counted events, timers that run
 * when the test says so. What a sequence's tokens are depends on its seed and their position alone, as in the engine.
 */

import type { BackendAddress } from "../../edge/backend/addresses.ts";
import type { Backend } from "../../edge/backend/backend-group.ts";
import { Budget } from "../../edge/backend/budget.ts";
import { CallFailure, type FailureKind } from "../../edge/backend/call-failure.ts";
import type { BackendCalls, BatchCall, OpenBatch } from "../../edge/backend/client.ts";
import { FirstFrameTimes } from "../../edge/backend/first-frame-times.ts";
import { Router } from "../../edge/backend/router.ts";
import type { RoutingContext } from "../../edge/backend/routing-context.ts";
import { hedgeBudget, retryBudget } from "../../edge/backend/routing-limits.ts";
import type { BackendLoad } from "../../shared/contracts/backend-load.ts";
import type { BatchRequest, Frame, Readiness, SequenceRequest } from "../../shared/contracts/inference.ts";
import { type ErrorKind, ServiceError } from "../../shared/errors.ts";
import { uniformAt } from "../../shared/math/sampling.ts";
import { doneFrame, tokenFrame } from "./frames.ts";

/** All frames that a backend sends for a sequence if nothing goes wrong: from where it is continued. */
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

/** A first call that any process may take. */
export function firstCall(signal: AbortSignal): BatchCall {
  return { signal, numerics: null, process: null, isOnlyProcess: false, isRepeated: false, isAlone: false };
}

/** One call that a scripted backend got. */
export class ScriptedCall {
  readonly batch: BatchRequest;
  readonly signal: AbortSignal;
  /** What its sequences go on from. */
  readonly wantedNumerics: string | null;
  /** The process that it names. */
  readonly process: string | null;
  readonly isOnlyProcess: boolean;
  readonly isRepeated: boolean;
  readonly isAlone: boolean;
  readonly #accepted = Promise.withResolvers<OpenBatch>();
  readonly #groups: (Frame[] | Error | null)[] = [];
  #wake = () => {};

  constructor(batch: BatchRequest, { signal, numerics, process, isOnlyProcess, isRepeated, isAlone }: BatchCall) {
    this.batch = batch;
    this.signal = signal;
    this.wantedNumerics = numerics;
    this.process = process;
    this.isOnlyProcess = isOnlyProcess;
    this.isRepeated = isRepeated;
    this.isAlone = isAlone;
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

  /** `numerics` are the backend's own, `process` its name, `load` what it reports; null: it tells none. */
  async accept(
    numerics: string | null = null,
    process: string | null = null,
    load: BackendLoad | null = null,
  ): Promise<void> {
    const isMisdirected = this.process !== null && process !== this.process;
    this.#accepted.resolve({ process, isMisdirected, numerics, load, frames: this.#stream() });
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

  /** Ends the answer: properly, or as that failure. */
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
  /** The processes that were told of them. */
  readonly cancelledAt: (string | null)[] = [];
  ready: Readiness | null = null;
  probes = 0;
  /** Answers each call, where the test does not do it itself. */
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

export interface ScriptedRouting extends RoutingContext {
  backends: ScriptedBackend[];
  /** URLs, as they are configured. */
  names: string[];
  /** For `Backends`, which brings a router of its own. */
  addresses: BackendAddress[];
  clientOf(address: BackendAddress): BackendCalls;
  region: null;
  /** What the observer was told, as `event backend sequences`. */
  events: string[];
  /** Lets time pass, and what was to happen in it happen. */
  pass(ms: number): Promise<void>;
  /** Timers that wait. */
  timers(): number;
  settled(): Promise<unknown>;
}

export function scriptedRouting(count: number, budgets: { retries?: Budget; hedges?: Budget } = {}): ScriptedRouting {
  const names = Array.from({ length: count }, (_, i) => `b${i}`);
  const addresses = names.map((url) => ({ url, region: null }));
  const backends = names.map(() => new ScriptedBackend());
  const events: string[] = [];
  const works: Promise<void>[] = [];
  const timers = new Map<object, { atMs: number; work: () => void }>();
  let clockMs = 0;
  return {
    names,
    addresses,
    clientOf: ({ url }) => backends[names.indexOf(url)],
    region: null,
    jurisdiction: null,
    backends,
    events,
    router: new Router(addresses),
    clients: new Map(names.map((name, i) => [name, backends[i]])),
    retries: budgets.retries ?? new Budget(retryBudget),
    hedges: budgets.hedges ?? new Budget(hedgeBudget),
    firstFrames: new FirstFrameTimes(),
    observe({ event, backend, sequences }) {
      if (event !== "call_failed") events.push([event.replace("_", " "), backend, sequences ?? []].flat().join(" "));
    },
    now: () => clockMs,
    after(ms, work) {
      const key = {};
      timers.set(key, { atMs: clockMs + ms, work });
      return () => void timers.delete(key);
    },
    keepAlive: (work) => void works.push(work),
    async pass(ms) {
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

/** What a new router may choose at an address. */
export function backendAt(router: Router, url: string): Backend {
  const tried = new Set<string>();
  for (;;) {
    const choice = router.choose({ manifestHash: "", centroidId: null }, tried, 0);
    if (!choice) throw new Error(`there is no ${url}`);
    if (choice.backend.address.url === url) return choice.backend;
    tried.add(choice.backend.id);
  }
}

/** Lets everything that can go on go on. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
