/** Time that holds where the system's clock is set forward or back by hours. */

/**
 * A clock in milliseconds for ages, intervals and timeouts, which never goes back. Where the system's clock is set back, an
 * unknown time has passed; the size of the step stands for it, so what was remembered for seconds expires after a step of
 * hours. Its values are no dates. Workers have no monotonic clock: there, `performance.now()` follows the system's, too.
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

/**
 * Sets an object's alarm to `delayMs` from now, unless one is due within `longestMs`: one that was set before the clock was set
 * back may be hours away.
 */
export async function ensureAlarm(
  storage: AlarmStorage,
  nowMs: number,
  { delayMs, longestMs }: { delayMs: number; longestMs: number },
): Promise<void> {
  const dueMs = await storage.getAlarm();
  if (dueMs === null || dueMs > nowMs + longestMs) await storage.setAlarm(nowMs + delayMs);
}
