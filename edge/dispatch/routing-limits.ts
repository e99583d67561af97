/** Limits of queueing, routing and failover. Limits of callers are in shared/contracts/limits.ts. */
import { sequencesPerBatch } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";

/** Cloudflare allows a Durable Object six connections that await response headers. */
const connections = 6;

export const queueLimits = {
  connections,
  /** Maximum of these connections to one backend, so that a backend that hangs leaves one for the others. */
  connectionsPerBackend: connections - 1,
  /**
   * Calls of a group that may await an answer before further entries gather. With three calls, 16 simultaneous clients got the earliest
   * median first token, compared with 1, 2, 4 and 6: more calls cost CPU time, with fewer calls entries wait.
   */
  callsPerGroup: connections / 2,
  /** Maximum of waiting entries of all tenants. `CallQueue.roomOf` tells a tenant's part. */
  entries: limits.queuedSequences as number,
  entriesPerCall: sequencesPerBatch,
};

export const routingLimits = {
  /** This many errors without a completed sequence in between eject a backend. A single error may be the network's. */
  consecutiveErrors: 3,
  /** Duration of the first ejection. Each further ejection lasts twice as long, until a sequence completes. */
  ejectionMs: 1000,
  maxEjectionMs: 30_000,
  /** Milliseconds for which a backend that refused a manifest counts as not serving it. */
  mismatchMs: 5000,
  /** A backend takes at most this many times the average load, so that a popular centroid spills over to others. */
  loadFactor: 1.25,
  /** A backend with a smaller share of its slots in use is never too loaded to be chosen: its warm cache is worth more than balance. */
  freeShare: 0.25,
  /** Estimated wait for a first token, in milliseconds, when half of the slots are in use; see `waitMs`. */
  halfLoadWaitMs: 80,
  /** Slots that a process is assumed to have before its first report: the default of MAX_SEQUENCES. */
  presumedSlots: 32,
  /** Half-life of the estimate of other routers' load: about as long as a sequence runs. */
  reportHalfLifeMs: 2000,
  /** Maximum of the estimated number of routers: the cells of a few regions. */
  maxSenders: 32,
  /** After this many calls in a row that name a process of an address, one call names none, so that new processes are discovered. */
  namedCallsInRow: 16,
  /** A process without sequences that has not answered for this long is no longer named in calls as the one to run them. */
  processTtlMs: 600_000,
  /** After this time without an answer, a failed probe drops an ejected process: its pod is gone. */
  forgetMs: 60_000,
  processesPerAddress: 64,
};

/** Above this share of slots in use, the estimated wait rises linearly, so that it stays finite. */
const steepestShare = 0.9;

/** Estimated wait for a first token in milliseconds. It is proportional to used slots / free slots, as in a queue with random arrivals. */
export function waitMs(share: number): number {
  const bent = Math.min(share, steepestShare);
  return routingLimits.halfLoadWaitMs * (bent / (1 - bent) + (share - bent) / (1 - steepestShare) ** 2);
}

/**
 * Budget of repeated calls (retries.ts). A full budget repeats every call of a busy cell for two seconds at 500 requests a second, as after
 * the loss of a region. Each accepted call earns a part of a repeated call, so in a complete outage the budget runs out.
 */
export const retryBudget = { capacity: 1024, earned: 0.2 };

/** If this many backends have failed after they accepted a sequence, the sequence ends in an error, because it may be the cause. */
export const maxLosses = 6;

/** Pauses between retry rounds (retries.ts). During them, for up to 14 s, the client sees a stream that pauses instead of an error. */
export const roundPausesMs = [250, 500, 1000, 2000, 2000, 2000, 2000, 2000, 2000];

/** Timeout for the acceptance of a batch. A backend accepts quickly, however busy it is. */
export const acceptanceMs = 3000;
/** Timeout of a stream without a byte: a working backend sends a byte every `heartbeatMs`. */
export const silenceMs = 3000;
export const probeMs = 2000;
/** Timeout for making an adapter: a busy engine takes minutes to read the largest text, and tens of seconds to fit the adapter. */
export const adapterMs = 600_000;
