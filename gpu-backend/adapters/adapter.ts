/** What the engine knows of an adapter, whatever its source. Not here: how it is made, and how long it is kept. */

export interface Adapter {
  /** Content address: SHA-256 of everything it is made from. */
  readonly hash: string;
  readonly centroidId: string;
  /** [Q], the scale already in them; all zero where the scale is. */
  readonly gates: Float32Array;
  /** 0 is auto-off: the base is served. */
  readonly scale: number;
  /** Memory it takes while cached. */
  readonly bytes: number;
}

/** Makes adapters. `hashOf` is cheap and known before anything is generated. */
export interface AdapterSource {
  /** null for a centroid that does not exist. */
  hashOf(centroidId: string): string | null;
  /** Throws an Error for a centroid that does not exist. */
  generate(centroidId: string): Promise<Adapter>;
}
