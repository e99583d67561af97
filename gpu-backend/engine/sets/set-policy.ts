/**
 * Which sets of artifacts a backend starts and ends. Pure: the time comes in.
 *
 * The set that the pointer names is wanted. What was wanted before goes on for whoever still asks for it: edges that have
 * not looked at the pointer yet, and sequences that are to be resumed here. It ends once it is idle, and neither was asked
 * for nor was wanted for a while. No set ends while the engine of the wanted one restarts.
 */

export interface HeldSet {
  manifestHash: string;
  openSequences: number;
  /** When it was asked for, or wanted, last. */
  usedMs: number;
  /** Whether its engine takes batches; else it restarts. */
  isServing: boolean;
}

export interface SetLimits {
  /** Sets at the same time; each has its own session and its own memory. */
  sets: number;
  /** How long one goes on that is idle and not wanted any more. */
  graceMs: number;
}

export interface SetPlan {
  /** Whether there is room to start the wanted one, once `retire` is done. */
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
  // Somebody has to make room, and somebody has to stay until the new one serves.
  if (idle.length === 0 || held.length === 1) return { start: false, retire: [] };
  const [oldest] = idle.toSorted((a, b) => Number(a.isServing) - Number(b.isServing) || a.usedMs - b.usedMs);
  return { start: true, retire: [oldest.manifestHash] };
}
