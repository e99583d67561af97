/** `nats` is the sum over the example's tokens. */
export interface ExampleGain {
  tokens: number;
  nats: number;
}

export interface Gain {
  /** Mean gain in nats per token. Positive is better. */
  nats: number;
  ci95: [number, number];
  tokens: number;
}

/** Two-sided 95% quantiles of Student's t, for 1, 2, … degrees of freedom. The last quantile also stands for more degrees. */
const studentT = [
  12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11,
  2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/** Half the width of a mean's 95% interval, in standard errors. The mean is of `values` values. */
export function studentReach(values: number): number {
  return values > 1 ? studentT[Math.min(values - 1, studentT.length) - 1] : Number.POSITIVE_INFINITY;
}

/** The interval is Student's t interval over the examples, infinite for a single example. */
export function gainOver(examples: readonly ExampleGain[]): Gain {
  const tokens = examples.reduce((sum, example) => sum + example.tokens, 0);
  const nats = examples.reduce((sum, example) => sum + example.nats, 0) / tokens;
  const n = examples.length;
  const squares = examples.reduce((sum, example) => sum + (example.nats - nats * example.tokens) ** 2, 0);
  const reach = n > 1 ? (studentReach(n) * Math.sqrt((squares * n) / (n - 1))) / tokens : Number.POSITIVE_INFINITY;
  return { nats, ci95: [nats - reach, nats + reach], tokens };
}
