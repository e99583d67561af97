/** What the engine knows of an adapter, whatever its source. Not here: how it is made, and how long it is kept. */

export interface Adapter {
  /** Content address: SHA-256 of everything it is made from. */
  readonly hash: string;
  readonly centroidId: string;
  /** [Q], the scale already in them; all zero where the scale is. null for an adapter that uses no bank. */
  readonly gates: Float32Array | null;
  /** Its own low-rank pair, the scale already in it; null where it has none, or where the scale is 0. */
  readonly directions: Directions | null;
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

/** Makes adapters. `hashOf` is cheap and known before anything is generated. */
export interface AdapterSource {
  /** null for a centroid that does not exist. */
  hashOf(centroidId: string): string | null;
  /** Throws an Error for a centroid that does not exist. */
  generate(centroidId: string): Promise<Adapter>;
}
