/**
 * Decides which sets of artifacts a backend starts and ends. Pure: the time is a parameter.
 *
 * The wanted set is the one that the pointer names. Sets that were wanted before still serve edges that have not read the new
 * pointer, and sequences that are resumed here. Such a set ends when it has no open sequence and nobody has asked for it within
 * the grace period. No set ends while the engine of the wanted set restarts.
 */

export interface HeldSet {
  manifestHash: string;
  openSequences: number;
  /** Time at which it was last asked for or wanted. */
  usedMs: number;
  /** False while its engine restarts. */
  isServing: boolean;
}

export interface SetLimits {
  /** Maximum number of sets side by side; each has its own session and memory. */
  sets: number;
  /** Milliseconds for which an idle set that is no longer wanted is kept after its last use. */
  graceMs: number;
}

export interface SetPlan {
  /** True if the wanted set is to be started, after those of `retire` have ended. */
  start: boolean;
  /** Hashes of manifests. */
  retire: string[];
}

export function planSets(held: readonly HeldSet[], wanted: string, nowMs: number, limits: SetLimits): SetPlan {
  const idle = held.filter(({ manifestHash, openSequences }) => manifestHash !== wanted && openSequences === 0);
  const current = held.find(({ manifestHash }) => manifestHash === wanted);
  if (current) {
    const done = idle.filter(({ usedMs }) => current.isServing && nowMs - usedMs >= limits.graceMs);
    return { start: false, retire: done.map(({ manifestHash }) => manifestHash) };
  }
  if (held.length < limits.sets) return { start: true, retire: [] };
  // An idle set makes room, but the last set that is held serves until the new one does.
  if (idle.length === 0 || held.length === 1) return { start: false, retire: [] };
  const [oldest] = idle.toSorted((a, b) => Number(a.isServing) - Number(b.isServing) || a.usedMs - b.usedMs);
  return { start: true, retire: [oldest.manifestHash] };
}
