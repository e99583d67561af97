/** The limits of routing and failover, each with its reason. Not settings: they hold for any model and any backend. */
import { philox2x32 } from "../../shared/math/sampling.ts";

export const routingLimits = {
  /** Consecutive errors, without a completion in between, that eject a backend. A single one may be the network's. */
  consecutiveErrors: 3,
  /** Duration of the first ejection; each further one without a completion in between lasts twice as long. */
  ejectionMs: 1000,
  longestEjectionMs: 30_000,
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
  /** What a report says of others counts half after so long: about as long as a sequence runs. */
  reportHalfLifeMs: 2000,
  /** Bound on the estimated number of routers that send to the same backends: the cells of a few regions. */
  mostSenders: 32,
  /** After so many calls in a row that name a process of an address, one names none, which finds new processes. */
  namedCallsInRow: 16,
  /** How long calls to an address name no process after one reached another: the address does not route by name. */
  misdirectedMs: 60_000,
  /** After so many answers in a row by the same process, it counts as the only one of its address. */
  answersOfOne: 8,
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

/** Budget of sequences that run twice because their first token is late: a tenth of all. */
export const hedgeBudget = { capacity: 32, earned: 0.1 };

/** Maximum backends that may accept a sequence and then fail, however far it got: it may be what makes them fail. */
export const mostLosses = 6;

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
/** The platform allows six connections of an object that wait for response headers. */
export const awaitingCalls = 6;
/** Timeout for making an adapter: a wait at a busy engine, and seconds of fitting for a wide base. */
export const adapterMs = 120_000;
/**
 * Maximum tries to reach a process by name through an address that does not route by name, where each try reaches one at random:
 * eight for each process that answered so far, and eight more. Of four processes one is missed once in 100,000 calls.
 */
export const misdirectedTries = (processesSeen: number) => Math.min(128, 8 * processesSeen + 8);
/**
 * Pause before a further try, in milliseconds: short at first, and different for each call. Calls that repeat in step with each
 * other would each reach the same few processes of a round robin again and again.
 */
export const misdirectedPauseMs = (call: number, tries: number) =>
  Math.min(50, 2 * tries) * (philox2x32(call, tries, 0)[0] / 2 ** 32);
/** Maximum times that a batch is sent again because its backend lacked a tenant's adapter: processes without a name differ. */
export const adapterRounds = 4;
