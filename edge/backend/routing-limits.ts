/** The numbers of routing and failover, each with its reason. Not settings: they hold for any model and any backend. */

export interface RoutingLimits {
  /** Errors in a row, without a completion in between, that eject a backend. One alone may be the network's. */
  consecutiveErrors: number;
  /** How long the first ejection lasts; each further one without a completion in between lasts twice as long. */
  ejectionMs: number;
  longestEjectionMs: number;
  /** How long a backend that serves another manifest is asked last. A restart takes longer, a wrong guess costs one call. */
  mismatchMs: number;
  /** A backend takes at most this many times the average load, so that a popular centroid spills over. */
  loadFactor: number;
  /** Sequences that a backend may always have: below, a warm cache is worth more than balance. */
  freeLoad: number;
}

export const routingLimits: RoutingLimits = {
  consecutiveErrors: 3,
  ejectionMs: 1000,
  longestEjectionMs: 30_000,
  mismatchMs: 5000,
  loadFactor: 1.25,
  freeLoad: 8,
};

/**
 * Calls that may be repeated elsewhere. Starts full, so that the death of a backend with all it had is always survived;
 * refilled by calls that are accepted, so that while everything fails nobody knocks more than once.
 */
export const retryBudget = { capacity: 256, earned: 0.2 };

/** Sequences that may run twice because their first token is late: a tenth of all. */
export const hedgeBudget = { capacity: 32, earned: 0.1 };

/** Backends that took a sequence in and failed on it before it is given up, however far it got: it may be what kills them. */
export const mostLosses = 6;

/**
 * Pauses between rounds for sequences that had been taken in, while all that is against the backends may pass: a restart or a
 * stall. Their clients see a stream that stands still for up to 14 s, not one that fails. Who was never taken
 * in is told at once, and may come again.
 */
export const roundPausesMs = [250, 500, 1000, 2000, 2000, 2000, 2000, 2000, 2000];

/** Taking a batch in is quick, however busy a backend is. */
export const acceptanceMs = 3000;
/** A live backend is silent for less than twice the contract's `heartbeatMs`; after this, its process hangs or is cut off. */
export const silenceMs = 3000;
export const probeMs = 2000;
/** The platform lets an object have six connections that await their headers. */
export const awaitingCalls = 6;
/** Making an adapter: the examples' turn at a busy engine, and seconds of fitting for a wide base. */
export const adapterMs = 120_000;
