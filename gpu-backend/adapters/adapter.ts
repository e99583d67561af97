import type { WeightedChange } from "../runtime/step.ts";

/** Bytes of an adapter without its arrays: an object, two strings and headers of typed arrays. */
export const recordBytes = 512;

export interface Adapter {
  /** SHA-256 of everything that determines the adapter. */
  readonly hash: string;
  /** [Q]; null if every gate is zero. */
  readonly gates: Float32Array | null;
  /** Only a tenant's own adapter changes hidden states. */
  readonly changes: readonly WeightedChange[];
  /** Factor by which a centroid's gates were scaled. */
  readonly scale: number;
  readonly bytes: number;
}

export interface AdapterSource {
  /** Returns null for an unknown centroid. */
  hashOf(id: string): string | null;
  /** Throws an Error for an unknown id. */
  generate(id: string): Promise<Adapter>;
}

export type RowAdapter = Pick<Adapter, "gates" | "changes">;

/** The weighted mean of the adapters; null if every weight is 0. If the base has weight, the sum of `weights` is below 1. */
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
