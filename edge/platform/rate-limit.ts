/** Limits the events of a key. The platform's binding (`[[ratelimits]]`) counts events; without the binding, this isolate does. */
import { steadyClock } from "./clock.ts";
import { setNewest } from "./newest.ts";

export interface RateLimit {
  limit(event: { key: string }): Promise<{ success: boolean }>;
}

const maxKeys = 4096;

export function localRateLimit(maximum: number, periodMs: number, now: () => number): RateLimit {
  const steadyNow = steadyClock(now);
  const counts = new Map<string, number>();
  let begunMs = steadyNow();
  return {
    async limit({ key }) {
      if (steadyNow() - begunMs >= periodMs) {
        counts.clear();
        begunMs = steadyNow();
      }
      const count = (counts.get(key) ?? 0) + 1;
      setNewest(counts, key, count, maxKeys);
      return { success: count <= maximum };
    },
  };
}
