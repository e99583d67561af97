/** Limits of queueing, routing and failover. Limits of callers are in shared/contracts/limits.ts. */
import { sequencesPerBatch } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";

/** Cloudflare allows a Durable Object six connections that await response headers. */
const connections = 6;

export const queueLimits = {
  connections,
  /** One connection less, so that a backend that hangs leaves one for other backends. */
  connectionsPerBackend: connections - 1,
  /** Calls of a group that may await an answer at once. For 16 clients, 3 gave an earlier median first token than 1, 2, 4 or 6. */
  callsPerGroup: connections / 2,
  entries: limits.queuedSequences as number,
  entriesPerCall: sequencesPerBatch,
};

export const routingLimits = {
  /** Consecutive errors that eject a backend. A single error may be the network's. */
  consecutiveErrors: 3,
  /** Duration of the first ejection. Each further ejection lasts twice as long, until a sequence completes. */
  ejectionMs: 1000,
  maxEjectionMs: 30_000,
  /** Time for which a backend that refused a manifest counts as not serving it. */
  mismatchMs: 5000,
  /** A backend takes at most this many times the average load, so that a popular centroid spills over to other backends. */
  loadFactor: 1.25,
  /** Below this share of its slots, a backend is never too loaded: its warm cache is worth more than balance. */
  freeShare: 0.25,
  /** Estimated wait for a first token, in milliseconds, when half of the slots are in use; see `waitMs`. */
  halfLoadWaitMs: 80,
  /** Assumed slots of a process before its first report: the default of MAX_SEQUENCES. */
  presumedSlots: 32,
  /** Half-life of the estimate of other routers' load: about as long as a sequence runs. */
  reportHalfLifeMs: 2000,
  /** Maximum of the estimated number of routers: the cells of a few regions. */
  maxSenders: 32,
  /** After this many calls in a row with a named process, one call names none, so that new processes are discovered. */
  namedCallsInRow: 16,
  /** An idle process that has not answered for this long is no longer named in calls. */
  processTtlMs: 600_000,
  /** A failed probe drops an ejected process after this time without an answer, because its pod is gone. */
  forgetMs: 60_000,
  processesPerAddress: 64,
};

/** Above this share of slots in use, the estimated wait rises linearly, so that it stays finite. */
const steepestShare = 0.9;

/** Estimated wait for a first token in milliseconds: proportional to used slots / free slots, as in a queue with random arrivals. */
export function waitMs(share: number): number {
  const bent = Math.min(share, steepestShare);
  return routingLimits.halfLoadWaitMs * (bent / (1 - bent) + (share - bent) / (1 - steepestShare) ** 2);
}

/** Budget of repeated calls. A full budget repeats two seconds of calls at 500 a second, as after the loss of a region. */
export const retryBudget = { capacity: 1024, earned: 0.2 };

/** Number of accepting backends that may fail before a sequence ends in an error, because the sequence may be the cause. */
export const maxLosses = 6;

/** Pauses between retry rounds (retries.ts), up to 14 s in sum. The client sees a stream that pauses instead of an error. */
export const roundPausesMs = [250, 500, 1000, 2000, 2000, 2000, 2000, 2000, 2000];

/** Timeout for the acceptance of a batch. A backend accepts quickly, however busy it is. */
export const acceptanceMs = 3000;
/** Timeout of a stream without a byte. A working backend sends a byte every `heartbeatMs`. */
export const silenceMs = 3000;
export const probeMs = 2000;
/** Timeout for making an adapter. A busy engine takes minutes to read the largest text, and tens of seconds to fit the adapter. */
export const adapterMs = 600_000;
