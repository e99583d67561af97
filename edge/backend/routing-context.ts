import type { Jurisdiction } from "../../shared/contracts/tenants.ts";
import type { Budget } from "./budget.ts";
import type { BackendCalls } from "./client.ts";
import type { FirstFrameTimes } from "./first-frame-times.ts";
import type { Router } from "./router.ts";
import type { RoutingObserver } from "./routing-observer.ts";

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
