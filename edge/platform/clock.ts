/** Time that stays valid if the system's clock is set forward or back. */

/**
 * A monotonic clock in milliseconds. A step of the system's clock counts as elapsed time, so that caches expire. Workers have no monotonic
 * clock: their `performance.now()` follows the system's clock.
 */
export function steadyClock(now: () => number): () => number {
  let lastMs = now();
  let steadyMs = lastMs;
  return () => {
    const nowMs = now();
    steadyMs += Math.abs(nowMs - lastMs);
    lastMs = nowMs;
    return steadyMs;
  };
}

/** Sets an alarm `delayMs` from now, unless one is due within `maxDelayMs`. Replaces a later alarm, as after the clock was set back. */
export async function ensureAlarm(
  storage: { getAlarm(): Promise<number | null>; setAlarm(atMs: number): Promise<void> },
  nowMs: number,
  { delayMs, maxDelayMs }: { delayMs: number; maxDelayMs: number },
): Promise<void> {
  const dueMs = await storage.getAlarm();
  if (dueMs === null || dueMs > nowMs + maxDelayMs) await storage.setAlarm(nowMs + delayMs);
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
