/** What the engine knows of an adapter, whatever its source. Not here: how it is made, and how long it is kept. */

export interface Adapter {
  /** Content address: SHA-256 of everything it is made from. */
  readonly hash: string;
  /** [Q]; null where all would be zeros. */
  readonly gates: Float32Array | null;
  /** Added to the logits of its rows; null if it has none. */
  readonly bias: RowBias | null;
  /** Of what a centroid's gates add to the static adapter's. */
  readonly scale: number;
  /** Memory it takes while cached. */
  readonly bytes: number;
}

/** Sparse: all other tokens stay as they are. */
export interface RowBias {
  ids: Int32Array; // rising
  values: Float32Array;
}

/** Makes adapters by the id of a centroid or of a tenant's own adapter. `hashOf` is cheap and makes nothing. */
export interface AdapterSource {
  /** null for an id that does not exist. */
  hashOf(id: string): string | null;
  /** Throws an Error for an id that does not exist. */
  generate(id: string): Promise<Adapter>;
}

/** What an adapter, or a mixture of them, does to a row of the head. */
export type RowAdapter = Pick<Adapter, "gates" | "bias">;

/**
 * The mean of adapters by their weights: gates of one bank, so that the weighted sum of the deltas is the delta of the weighted
 * sum of the gates, and biases. What the weights leave to 1 is the base's. null where they leave all.
 */
export function meanAdapter(adapters: readonly RowAdapter[], weights: readonly number[]): RowAdapter | null {
  const used = adapters.flatMap((adapter, j) => (weights[j] > 0 ? [{ ...adapter, weight: weights[j] }] : []));
  if (used.length === 0) return null;
  const gates = new Float64Array(used.reduce((most, one) => Math.max(most, one.gates?.length ?? 0), 0));
  const bias = new Map<number, number>();
  for (const one of used) {
    one.gates?.forEach((gate, q) => {
      gates[q] += one.weight * gate;
    });
    one.bias?.ids.forEach((id, i) => {
      bias.set(id, (bias.get(id) ?? 0) + one.weight * one.bias!.values[i]);
    });
  }
  const ids = Int32Array.from(bias.keys()).sort();
  return {
    gates: gates.length > 0 ? Float32Array.from(gates) : null,
    bias: ids.length > 0 ? { ids, values: Float32Array.from(ids, (id) => bias.get(id)!) } : null,
  };
}
