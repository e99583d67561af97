import type { Jurisdiction } from "../../shared/contracts/tenant-name.ts";
import type { Budget } from "./budget.ts";
import type { BackendCalls } from "./client.ts";
import type { FirstFrameTimes } from "./first-frame-times.ts";
import type { Router } from "./router.ts";

/** What all batch runs share. */
export interface RoutingContext {
  router: Router;
  /** Jurisdiction that all these backends are in; null for no restriction. */
  jurisdiction: Jurisdiction | null;
  /** By the URL of an address. */
  clients: ReadonlyMap<string, BackendCalls>;
  retries: Budget;
  hedges: Budget;
  firstFrames: FirstFrameTimes;
  observe(event: RoutingEvent): void;
  /** A clock in milliseconds. */
  now(): number;
  /** Runs `work` once, after `ms`; the returned function cancels it. */
  after(ms: number, work: () => void): () => void;
  /** Keeps the object alive until `work` settles (waitUntil). */
  keepAlive(work: Promise<void>): void;
}

/** What routing does, for metrics, logs and tests. */
export interface RoutingEvent {
  event: /** Sequences without tokens are sent again, because `backend` failed or refused their call. */
    | "retried"
    /** Another backend has accepted sequences with tokens, because `backend` failed: once for each call. */
    | "resumed"
    /** Sequences with tokens end in an error, because `backend` failed and no other has the same numerics. */
    | "not_resumed"
    /** Sequences are also sent to `backend`, because their first token is late. */
    | "hedged"
    /** The backend is used only if no other is fit, until a probe succeeds. */
    | "ejected"
    /** A probe of an ejected backend succeeded. */
    | "returned"
    | "call_failed";
  backend: string;
  /** How many, where it is about sequences. */
  sequences?: number;
  /** Why the call failed. */
  failure?: Error;
}
