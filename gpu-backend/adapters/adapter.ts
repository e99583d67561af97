/** What the engine knows of an adapter, whatever its source. Not here: how it is made, and how long it is kept. */
import type { WeightedChange } from "../runtime/step.ts";

export interface Adapter {
  /** Content address: SHA-256 of everything it is made from. */
  readonly hash: string;
  /** [Q]; null where all would be zeros. */
  readonly gates: Float32Array | null;
  /** What a tenant's own adapter adds to hidden states. */
  readonly changes: readonly WeightedChange[];
  /** Of what a centroid's gates add to the static adapter's. */
  readonly scale: number;
  /** Memory it takes while cached. */
  readonly bytes: number;
}

/** Makes adapters by the id of a centroid or of a tenant's own adapter. `hashOf` is cheap and makes nothing. */
export interface AdapterSource {
  /** null for an id that does not exist. */
  hashOf(id: string): string | null;
  /** Throws an Error for an id that does not exist. */
  generate(id: string): Promise<Adapter>;
}

/** What an adapter, or a mixture of them, does to a row of the head. */
export type RowAdapter = Pick<Adapter, "gates" | "changes">;

/**
 * The mean of adapters by their weights: gates of one bank, so that the weighted sum of what they add is that of the weighted sum of
 * the gates, and own changes. What the weights leave to 1 is the base's. null where they leave all.
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
