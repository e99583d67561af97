/** The gain of an adapter on examples that it was not trained on, with an interval. Pure. */

/** The gain on one example. `nats` is the sum over its tokens. */
export interface ExampleGain {
  tokens: number;
  nats: number;
}

export interface Gain {
  /** Mean gain in nats per token; positive is better. */
  nats: number;
  ci95: [number, number];
  tokens: number;
}

/** Two-sided 95% quantiles of Student's t, for 1, 2, … degrees of freedom. The last quantile is used for more degrees, too. */
const studentT = [
  12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11,
  2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/** Half the width of the 95% interval of a mean of `values` values, in standard errors; infinite for a single value. */
export function studentReach(values: number): number {
  return values > 1 ? studentT[Math.min(values - 1, studentT.length) - 1] : Number.POSITIVE_INFINITY;
}

/** Total nats over total tokens, with Student's t interval over the examples. For a single example the interval is infinite. */
export function gainOver(examples: readonly ExampleGain[]): Gain {
  const tokens = examples.reduce((sum, example) => sum + example.tokens, 0);
  const nats = examples.reduce((sum, example) => sum + example.nats, 0) / tokens;
  const n = examples.length;
  const squares = examples.reduce((sum, example) => sum + (example.nats - nats * example.tokens) ** 2, 0);
  const reach = n > 1 ? (studentReach(n) * Math.sqrt((squares * n) / (n - 1))) / tokens : Number.POSITIVE_INFINITY;
  return { nats, ci95: [nats - reach, nats + reach], tokens };
}
