import type { Jurisdiction } from "../../shared/contracts/tenants.ts";
import type { Budget } from "./budget.ts";
import type { BackendCalls } from "./client.ts";
import type { FirstFrameTimes } from "./first-frame-times.ts";
import type { Router } from "./router.ts";

/** What all batch runs share. */
export interface RoutingContext {
  router: Router;
  /** Of all backends; null: of none. */
  jurisdiction: Jurisdiction | null;
  /** By the URL of an address. */
  clients: ReadonlyMap<string, BackendCalls>;
  retries: Budget;
  hedges: Budget;
  firstFrames: FirstFrameTimes;
  observer: RoutingObserver;
  /** A clock in milliseconds. */
  now(): number;
  /** Runs `work` once, after `ms`; the returned function cancels it. */
  after(ms: number, work: () => void): () => void;
  /** Keeps the object alive until `work` settles (waitUntil). */
  keepAlive(work: Promise<void>): void;
}

/** Routing events, for metrics, logs and tests. */
export interface RoutingObserver {
  /** Sequences without tokens are sent to another backend, because `backend` failed. */
  retried(backend: string, sequences: number): void;
  /** Another backend has accepted sequences with tokens, because `backend` failed: once for each of its failures. */
  resumed(backend: string, sequences: number): void;
  /** Sequences with tokens end in an error, because `backend` failed and no other has the same numerics. */
  notResumed(backend: string, sequences: number): void;
  /** Sequences are also sent to `backend`, because their first token is late. */
  hedged(backend: string, sequences: number): void;
  /** The backend is used only if no other is fit, until a probe succeeds. */
  ejected(backend: string): void;
  /** A probe of an ejected backend succeeded. */
  returned(backend: string): void;
  /** A call failed. */
  failed(backend: string, why: Error): void;
}
