/** An adapter as the engine applies it. generated/ and own/ make adapters. */
import type { WeightedChange } from "../runtime/step.ts";

/** Approximate bytes of an adapter without its arrays: an object, two strings, headers of typed arrays. */
export const recordBytes = 512;

export interface Adapter {
  /** SHA-256 of everything that determines the adapter. */
  readonly hash: string;
  /** Gates of the bank, [Q]; null if all are zero. */
  readonly gates: Float32Array | null;
  /** A tenant's own adapter: changes of hidden states. */
  readonly changes: readonly WeightedChange[];
  /** Factor of a centroid's gates, which are added to the static adapter's. */
  readonly scale: number;
  readonly bytes: number;
}

/** Makes adapters by the id of a centroid or of an own adapter. */
export interface AdapterSource {
  /** Makes no adapter. null for an unknown id. */
  hashOf(id: string): string | null;
  /** Throws an Error for an unknown id. */
  generate(id: string): Promise<Adapter>;
}

/** The effect of an adapter, or of a mixture, on a row of the head. */
export type RowAdapter = Pick<Adapter, "gates" | "changes">;

/** The weighted mean of adapters, and so of their gates; null if none has weight. Weights add up to less than 1 if the base has some. */
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
