/** An adapter as the engine applies it. Not here: how adapters are made (generated/, own/), and how long they are cached. */
import type { WeightedChange } from "../runtime/step.ts";

export interface Adapter {
  /** SHA-256 of everything that the adapter is made from. */
  readonly hash: string;
  /** Gates of the bank, [Q]; null if all are zero. */
  readonly gates: Float32Array | null;
  /** What a tenant's own adapter adds to hidden states. */
  readonly changes: readonly WeightedChange[];
  /** Scale at which the gates of a centroid are added to those of the static adapter. */
  readonly scale: number;
  /** Size in memory while it is cached. */
  readonly bytes: number;
}

/** Makes adapters by id, of a centroid or of a tenant's own adapter. */
export interface AdapterSource {
  /** Cheap: makes no adapter. null for an id that does not exist. */
  hashOf(id: string): string | null;
  /** Throws an Error for an id that does not exist. */
  generate(id: string): Promise<Adapter>;
}

/** What an adapter, or a mixture of adapters, does to a row of the head. */
export type RowAdapter = Pick<Adapter, "gates" | "changes">;

/**
 * The weighted mean of adapters. All gates are of the same bank and act linearly, so the mean adapter has the mean gates. Weights may
 * add up to less than 1; the rest is the base's, which adds nothing. null if no adapter has weight.
 */
export function meanAdapter(adapters: readonly RowAdapter[], weights: readonly number[]): RowAdapter | null {
  const used = adapters.flatMap((adapter, j) => (weights[j] > 0 ? [{ ...adapter, weight: weights[j] }] : []));
  if (used.length === 0) return null;
  const gates = new Float64Array(used.reduce((most, one) => Math.max(most, one.gates?.length ?? 0), 0));
  for (const one of used) {
    one.gates?.forEach((gate, q) => {
      gates[q] += one.weight * gate;
    });
  }
  return {
    gates: gates.length > 0 ? Float32Array.from(gates) : null,
    changes: used.flatMap(({ changes, weight }) => changes.map((one) => ({ ...one, weight: one.weight * weight }))),
  };
}
