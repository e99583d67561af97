/**
 * The limits of queueing, routing and failover, each with its reason. Not settings: they hold for any model and any backend. Limits of
 * callers are in shared/contracts/limits.ts.
 */
import { sequencesPerBatch } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";

/** The platform allows six connections of an object that await response headers. */
const connections = 6;

export const queueLimits = {
  connections,
  /** Of these, those that may await an answer of the same backend: one that hangs leaves a connection to the others. */
  connectionsPerBackend: connections - 1,
  /**
   * Calls of one group that may await an answer before the group gathers. A call costs CPU time and gathering a wait: of 1, 2, 3,
   * 4 and 6 calls, three gave 16 clients in step the earliest median first tokens.
   */
  callsPerGroup: connections / 2,
  /** A tenant may hold as many entries as it leaves free, so there is always room for one more tenant. */
  entries: limits.queuedSequences as number,
  entriesPerCall: sequencesPerBatch,
};

export const routingLimits = {
  /** Consecutive errors, without a completion in between, that eject a backend. A single one may be the network's. */
  consecutiveErrors: 3,
  /** Duration of the first ejection; each further one without a completion in between lasts twice as long. */
  ejectionMs: 1000,
  maxEjectionMs: 30_000,
  /** How long a backend that refused a manifest counts as unfit for it. A wrong guess costs one call. */
  mismatchMs: 5000,
  /** A backend takes at most this many times the average load, so that a popular centroid spills over to others. */
  loadFactor: 1.25,
  /** Up to this part of its slots a backend is never passed over: a warm cache is worth more than balance. */
  freeShare: 0.25,
  /** Estimated wait for a first token where half of the slots are taken; see `waitMs`. */
  halfLoadWaitMs: 80,
  /** Slots of a process that has not reported its load: the default of MAX_SEQUENCES. */
  presumedSlots: 32,
  /** Half-life of the load that a report attributes to other routers: about as long as a sequence runs. */
  reportHalfLifeMs: 2000,
  /** Bound on the estimated number of routers that send to the same backends: the cells of a few regions. */
  maxSenders: 32,
  /** After so many calls in a row that name a process of an address, one names none, which finds new processes. */
  namedCallsInRow: 16,
  /** A process that is idle and has not answered for so long is not named any more. */
  processTtlMs: 600_000,
  /** An ejected process that has not answered for so long is forgotten with its next failed probe: its pod is gone. */
  forgetMs: 60_000,
  /** Processes that are remembered for each address. */
  processesPerAddress: 64,
};

/** Taken slots above which the estimated wait rises linearly, so that it is finite for a full backend, too. */
const steepestShare = 0.9;

/**
 * Estimated wait for a first token, in milliseconds, by the taken share of the slots: as in a queue with random arrivals it
 * rises with the share of taken to free slots. Only its size beside a round trip is used.
 */
export function waitMs(share: number): number {
  const bent = Math.min(share, steepestShare);
  return routingLimits.halfLoadWaitMs * (bent / (1 - bent) + (share - bent) / (1 - steepestShare) ** 2);
}

/**
 * Budget of repeated calls. It starts full, so that a busy cell survives the loss of its whole region, where each of its calls is
 * repeated: two seconds' worth at 500 requests a second. Accepted calls refill it, so that during a complete outage calls are not
 * repeated.
 */
export const retryBudget = { capacity: 1024, earned: 0.2 };

/** Maximum backends that may accept a sequence and then fail, however far it got: the sequence may be what makes them fail. */
export const maxLosses = 6;

/**
 * Pauses between retry rounds for sequences that a backend had accepted, as long as the failures are temporary (a restart, a
 * stall). Their clients see a stream that pauses for up to 14 s instead of an error. A sequence that was never accepted
 * ends in an error at once, and its client may retry.
 */
export const roundPausesMs = [250, 500, 1000, 2000, 2000, 2000, 2000, 2000, 2000];

/** Timeout for accepting a batch, which is quick however busy a backend is. */
export const acceptanceMs = 3000;
/** A live backend sends something every `heartbeatMs`; after this time without a byte its process hangs or is cut off. */
export const silenceMs = 3000;
/** Timeout of a readiness probe. */
export const probeMs = 2000;
/** Timeout for making an adapter: the most text takes a busy engine minutes, and a fit tens of seconds. */
export const adapterMs = 600_000;
