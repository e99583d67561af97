/** Where artifacts are published, as little of it as is needed. Not here: names and what is behind them. */

export interface StoredObject {
  bytes: Uint8Array<ArrayBuffer>;
  /** Names this version of it. */
  etag: string;
}

/** Every method rejects with an Error that names the object where it fails. */
export interface ObjectStore {
  /** `mostBytes + 1` bytes of it at most; null where there is none. */
  get(name: string, mostBytes: number): Promise<StoredObject | null>;
  put(name: string, bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  /**
   * Writes it with its metadata where it still is the version `etag`, null being none. Returns false, and writes nothing,
   * where it is not.
   */
  replace(
    name: string,
    bytes: Uint8Array<ArrayBuffer>,
    etag: string | null,
    metadata: Record<string, string>,
  ): Promise<boolean>;
}
