/** An adapter as the engine applies it. The folders generated/ and own/ make adapters. */
import type { WeightedChange } from "../runtime/step.ts";

/** Approximate bytes of an adapter without its arrays: an object, two strings, headers of typed arrays. */
export const recordBytes = 512;

export interface Adapter {
  /** SHA-256 of everything that determines the adapter. */
  readonly hash: string;
  /** Gates of the bank's Q directions, [Q]; null if all are zero. */
  readonly gates: Float32Array | null;
  /** Changes of hidden states, which only a tenant's own adapter makes. */
  readonly changes: readonly WeightedChange[];
  /** Factor of a centroid's part of the gates, to which the static adapter's gates are added (hyper-network.ts). */
  readonly scale: number;
  readonly bytes: number;
}

/** Makes adapters by the id of a centroid or of an own adapter. */
export interface AdapterSource {
  /** Returns the adapter's hash without making the adapter; null for an unknown centroid. */
  hashOf(id: string): string | null;
  /** Throws an Error for an unknown id. */
  generate(id: string): Promise<Adapter>;
}

/** What an adapter, or a mixture of adapters, changes in one row of the head. */
export type RowAdapter = Pick<Adapter, "gates" | "changes">;

/** The weighted mean of adapters' gates and changes; null if none has weight. If the base has weight, the sum of `weights` is below 1. */
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
