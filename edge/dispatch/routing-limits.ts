/** Limits of queueing, routing and failover, which suit any model and backend. Limits of callers are in shared/contracts/limits.ts. */
import { sequencesPerBatch } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";

/** Cloudflare allows a Durable Object six connections that await response headers. */
const connections = 6;

export const queueLimits = {
  connections,
  /** Maximum of these connections to one backend, so that a backend that hangs leaves one to the others. */
  connectionsPerBackend: connections - 1,
  /**
   * Calls of one group that may await an answer before further entries gather. More calls cost CPU time, fewer make entries wait:
   * of 1, 2, 3, 4 and 6 calls, three gave 16 simultaneous clients the earliest median first token.
   */
  callsPerGroup: connections / 2,
  /** Maximum waiting entries. A tenant may have as many as it leaves free, so there is always room for another one. */
  entries: limits.queuedSequences as number,
  entriesPerCall: sequencesPerBatch,
};

export const routingLimits = {
  /** Errors without a completion in between that eject a backend. A single error may be the network's. */
  consecutiveErrors: 3,
  /** Duration of the first ejection. Each further one lasts twice as long, until a sequence completes. */
  ejectionMs: 1000,
  maxEjectionMs: 30_000,
  /** How long a backend that refused a manifest counts as unfit for it. A wrong guess costs one call. */
  mismatchMs: 5000,
  /** A backend takes at most this many times the average load, so that a popular centroid spills over to others. */
  loadFactor: 1.25,
  /** A backend with less than this share of its slots taken is never passed over: a warm cache is worth more than balance. */
  freeShare: 0.25,
  /** Estimated wait for a first token if half of the slots are taken; see `waitMs`. */
  halfLoadWaitMs: 80,
  /** Slots of a process that has not reported its load: the default of MAX_SEQUENCES. */
  presumedSlots: 32,
  /** Half-life of the load that is attributed to other routers: about as long as a sequence runs. */
  reportHalfLifeMs: 2000,
  /** Bound on the estimated number of routers that send to the same backends: the cells of a few regions. */
  maxSenders: 32,
  /** After this many calls in a row that name a process of an address, one call names none, to discover new processes. */
  namedCallsInRow: 16,
  /** An idle process that has not answered for this long is not called by its name any more. */
  processTtlMs: 600_000,
  /** An ejected process that has not answered for this long is forgotten at its next failed probe: its pod is gone. */
  forgetMs: 60_000,
  processesPerAddress: 64,
};

/** Share of taken slots above which the estimated wait rises linearly, so that it stays finite for a full backend. */
const steepestShare = 0.9;

/** Estimated wait for a first token in milliseconds: proportional to the ratio of taken to free slots, as in a queue with random arrivals. */
export function waitMs(share: number): number {
  const bent = Math.min(share, steepestShare);
  return routingLimits.halfLoadWaitMs * (bent / (1 - bent) + (share - bent) / (1 - steepestShare) ** 2);
}

/**
 * Budget of repeated calls (retries.ts). A full budget lets a busy cell survive the loss of its region, where every call is repeated, for
 * two seconds at 500 requests a second. Each accepted call earns a part of a repeated one, so during a complete outage none is repeated.
 */
export const retryBudget = { capacity: 1024, earned: 0.2 };

/** After this many backends accepted a sequence and failed, it ends in an error: the sequence itself may make them fail. */
export const maxLosses = 6;

/**
 * Pauses between retry rounds, in milliseconds (retries.ts). The client of an accepted sequence sees a stream that pauses for up to
 * 14 s instead of an error. A sequence that was never accepted ends in an error at once, and its client may retry.
 */
export const roundPausesMs = [250, 500, 1000, 2000, 2000, 2000, 2000, 2000, 2000];

/** Timeout for the acceptance of a batch, in milliseconds, which is quick however busy a backend is. */
export const acceptanceMs = 3000;
/** Milliseconds without a byte after which a stream is given up: a live backend sends a byte every `heartbeatMs`. */
export const silenceMs = 3000;
export const probeMs = 2000;
/** Timeout for making an adapter, in milliseconds: the largest text takes a busy engine minutes, and its fit tens of seconds. */
export const adapterMs = 600_000;
