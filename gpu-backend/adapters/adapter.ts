/** What the engine knows of an adapter, whatever its source. Not here: how it is made, and how long it is kept. */

export interface Adapter {
  /** Content address: SHA-256 of everything it is made from. */
  readonly hash: string;
  /** [Q], multiplied by the scale. null for an adapter that does not use the bank. */
  readonly gates: Float32Array | null;
  /** Added to the logits of its rows; null if it has none. */
  readonly bias: RowBias | null;
  /** 0 switches the adapter off: the base is served. */
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
