/** Whether something grows with the number of requests. Pure. */

export interface Growth {
  /** By so much for each 10,000 requests. */
  slope: number;
  /** Standard error of that. */
  error: number;
}

export interface Point {
  requests: number;
  value: number;
}

/** A straight line through the later half of `points`, by least squares: in the earlier half caches fill. Wants six. */
export function lateGrowth(points: readonly Point[]): Growth {
  const late = points.slice(Math.floor(points.length / 2));
  const x = late.map(({ requests }) => requests / 10_000);
  const y = late.map(({ value }) => value);
  const [meanX, meanY] = [mean(x), mean(y)];
  const spread = sum(x.map((one) => (one - meanX) ** 2));
  const slope = sum(x.map((one, i) => (one - meanX) * (y[i] - meanY))) / spread;
  const residual = sum(x.map((one, i) => (y[i] - meanY - slope * (one - meanX)) ** 2));
  return { slope, error: Math.sqrt(residual / (late.length - 2) / spread) };
}

/** Whether growth of more than `limit` can be ruled out, or is seen, or neither: then there was too little to go by. */
export function verdictOf({ slope, error }: Growth, limit: number): "level" | "grows" | "unclear" {
  if (slope + 2 * error <= limit) return "level";
  return slope - 2 * error > limit ? "grows" : "unclear";
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function mean(values: readonly number[]): number {
  return sum(values) / values.length;
}
