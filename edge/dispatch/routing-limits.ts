/** Limits of queueing, routing and failover. Limits of callers are in shared/contracts/limits.ts. */
import { sequencesPerBatch } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";

/** Cloudflare allows a Durable Object six connections that await response headers. */
const connections = 6;

export const queueLimits = {
  connections,
  /** Maximum of these to one backend, so that a backend that hangs leaves one connection to the others. */
  connectionsPerBackend: connections - 1,
  /**
   * Calls of a group that may await an answer before entries gather. Of 1, 2, 3, 4 and 6 calls, three gave 16 simultaneous clients the
   * earliest median first token: more cost CPU time, fewer make entries wait.
   */
  callsPerGroup: connections / 2,
  /** Maximum waiting entries. A tenant may have as many as it leaves free. */
  entries: limits.queuedSequences as number,
  entriesPerCall: sequencesPerBatch,
};

export const routingLimits = {
  /** Errors without a completion in between that eject a backend. One error may be the network's. */
  consecutiveErrors: 3,
  /** The first ejection; each further one is twice as long, until a sequence completes. */
  ejectionMs: 1000,
  maxEjectionMs: 30_000,
  /** How long a backend that refused a manifest is unfit for it. */
  mismatchMs: 5000,
  /** A backend takes at most this many times the average load, so that a popular centroid spills over to others. */
  loadFactor: 1.25,
  /** A backend with a smaller share of its slots in use is never passed over: a warm cache is worth more than balance. */
  freeShare: 0.25,
  /** Estimated wait for a first token when half of the slots are in use; see `waitMs`. */
  halfLoadWaitMs: 80,
  /** Assumed for a process without a report: the default of MAX_SEQUENCES. */
  presumedSlots: 32,
  /** Half-life of other routers' load: about as long as a sequence runs. */
  reportHalfLifeMs: 2000,
  /** Bound on the estimated number of routers: the cells of a few regions. */
  maxSenders: 32,
  /** After this many calls in a row to named processes of an address, one names none, to discover new processes. */
  namedCallsInRow: 16,
  /** An idle process that was silent for this long is not called by name. */
  processTtlMs: 600_000,
  /** An ejected process that was silent for this long is dropped at its next failed probe: its pod is gone. */
  forgetMs: 60_000,
  processesPerAddress: 64,
};

/** Share of slots in use above which the estimated wait rises linearly, so that it stays finite. */
const steepestShare = 0.9;

/** Estimated wait for a first token in milliseconds: proportional to used slots / free slots, as in a queue with random arrivals. */
export function waitMs(share: number): number {
  const bent = Math.min(share, steepestShare);
  return routingLimits.halfLoadWaitMs * (bent / (1 - bent) + (share - bent) / (1 - steepestShare) ** 2);
}

/**
 * Budget of repeated calls (retries.ts). Full, it repeats every call of a busy cell for two seconds at 500 requests a second, as after
 * the loss of a region. Each accepted call earns a part of a repeated one, so in a complete outage none is repeated.
 */
export const retryBudget = { capacity: 1024, earned: 0.2 };

/** A sequence that this many backends accepted before they failed ends in an error: it may be the cause. */
export const maxLosses = 6;

/** Pauses between retry rounds (retries.ts): the client sees a stream that pauses for up to 14 s instead of an error. */
export const roundPausesMs = [250, 500, 1000, 2000, 2000, 2000, 2000, 2000, 2000];

/** Timeout for the acceptance of a batch, which is quick however busy a backend is. */
export const acceptanceMs = 3000;
/** A stream without a byte for this long is given up: a live backend sends one every `heartbeatMs`. */
export const silenceMs = 3000;
export const probeMs = 2000;
/** Timeout for making an adapter: the largest text takes a busy engine minutes, and its fit tens of seconds. */
export const adapterMs = 600_000;
