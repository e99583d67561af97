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
