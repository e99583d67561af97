/** Whether something grows with the number of requests. Pure. */

/** By so much for each 10,000 requests, and between what that lies with 95% confidence. */
export interface Growth {
  slope: number;
  low: number;
  high: number;
}

export interface Point {
  requests: number;
  value: number;
}

/**
 * A straight line through the later half of `points`, which want six at least: in the earlier half caches fill. By the median of
 * the slopes between any two (Theil and Sen, the interval by Kendall's statistic), which does not mind samples that were
 * taken while something ran. null where no two samples differ in their number of requests.
 */
export function lateGrowth(points: readonly Point[]): Growth | null {
  const late = points.slice(Math.floor(points.length / 2));
  const slopes = late
    .flatMap((to, i) =>
      late
        .slice(0, i)
        .filter((from) => from.requests !== to.requests)
        .map((from) => (10_000 * (to.value - from.value)) / (to.requests - from.requests)),
    )
    .sort((a, b) => a - b);
  if (slopes.length === 0) return null;
  const n = late.length;
  const spread = 1.96 * Math.sqrt((n * (n - 1) * (2 * n + 5)) / 18);
  const at = (place: number) => slopes[Math.min(Math.max(Math.round(place), 0), slopes.length - 1)];
  const last = slopes.length - 1;
  return { slope: at(last / 2), low: at((last - spread) / 2), high: at((last + spread) / 2) };
}

/** Whether growth of more than `limit` can be ruled out, or is seen, or neither: then there was too little to go by. */
export function verdictOf({ low, high }: Growth, limit: number): "level" | "grows" | "unclear" {
  if (high <= limit) return "level";
  return low > limit ? "grows" : "unclear";
}
