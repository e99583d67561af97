/** Numbers of the independent streams of random draws, so that a change of one use does not change the draws of others. */
export const streams = {
  windows: 2,
  kMeans: 3,
  initialise: 4,
  bootstrap: 5,
  placement: 7,
  /** Training step s draws from stream `firstStep + s`. */
  firstStep: 1000,
} as const;
