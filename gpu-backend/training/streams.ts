/** One number per independent use of randomness, so that changing one use leaves the others' draws alone. */
export const streams = {
  windows: 2,
  kMeans: 3,
  initialise: 4,
  bootstrap: 5,
  placement: 7,
  /** Training step s draws from stream `firstStep + s`. */
  firstStep: 1000,
} as const;
