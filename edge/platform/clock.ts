/** Clocks, alarms and pauses that work when the system's clock is set forward or back by hours. */

/**
 * A monotonic clock in milliseconds for ages and timeouts; its values are not dates. A step back counts as that much time passed, so
 * that caches expire. Workers have none: their `performance.now()` follows the system's clock.
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

/** The methods of a DurableObjectStorage in use. */
interface AlarmStorage {
  getAlarm(): Promise<number | null>;
  setAlarm(atMs: number): Promise<void>;
}

/** Sets an object's alarm to `delayMs` from now, unless one is due within `maxDelayMs`, which fails after the clock was set back. */
export async function ensureAlarm(
  storage: AlarmStorage,
  nowMs: number,
  { delayMs, maxDelayMs }: { delayMs: number; maxDelayMs: number },
): Promise<void> {
  const dueMs = await storage.getAlarm();
  if (dueMs === null || dueMs > nowMs + maxDelayMs) await storage.setAlarm(nowMs + delayMs);
}

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
