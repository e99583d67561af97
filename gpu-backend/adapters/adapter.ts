/** What the engine knows of an adapter, whatever its source. Not here: how it is made, and how long it is kept. */

export interface Adapter {
  /** Content address: SHA-256 of everything it is made from. */
  readonly hash: string;
  /** [Q], the scale already in them; all zero where the scale is. null for an adapter that uses no bank. */
  readonly gates: Float32Array | null;
  /** Its own low-rank pair, the scale already in it; null where it has none, or where the scale is 0. */
  readonly directions: Directions | null;
  /** Added to the logits of its rows; null where it has none. */
  readonly bias: RowBias | null;
  /** 0 is auto-off: the base is served. */
  readonly scale: number;
  /** Memory it takes while cached. */
  readonly bytes: number;
}

/** A low-rank update of one centroid's own: delta = (h·Aᵀ)·B. */
export interface Directions {
  rank: number; // R
  a: Float32Array; // [R, D]
  b: Float32Array; // [R, V]
}

/** Sparse: all other tokens stay as they are. */
export interface RowBias {
  ids: Int32Array; // rising
  values: Float32Array;
}

/** Makes adapters, by id: that of a centroid, or of a tenant's own. `hashOf` is cheap and known before anything is made. */
export interface AdapterSource {
  /** null for an id that does not exist. */
  hashOf(id: string): string | null;
  /** Throws an Error for an id that does not exist. */
  generate(id: string): Promise<Adapter>;
}
