/** Growth per 10,000 requests, with its 95% confidence interval. */
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
 * Fits a line through the later half of at least six `points`, because caches fill in the earlier half. The slope is the median of the
 * slopes between any two points (Theil-Sen, with Kendall's interval). Returns null if all samples have the same number of requests.
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

/** "level": growth is at most `limit`; "grows": growth is above 0; "unclear": there are too few samples. */
export function verdictOf({ low, high }: Growth, limit: number): "level" | "grows" | "unclear" {
  if (high <= limit) return "level";
  return low > limit ? "grows" : "unclear";
}
