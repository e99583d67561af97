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
