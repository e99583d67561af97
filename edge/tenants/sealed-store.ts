/**
 * A tenant's uploads, gzipped and encrypted with AES-GCM under the tenant's own key. Security: an erasure destroys the key, so that no copy
 * of the bytes can be read. For 30 days, the platform can restore the key if the account's owner asks.
 */
import { joinArrays } from "../../shared/bytes.ts";

const schema = `
  CREATE TABLE IF NOT EXISTS documentKey (id INTEGER PRIMARY KEY CHECK (id = 0), bytes BLOB NOT NULL);
  CREATE TABLE IF NOT EXISTS documentParts (
    hash TEXT NOT NULL, kind TEXT NOT NULL, part INTEGER NOT NULL, parts INTEGER NOT NULL, iv BLOB NOT NULL,
    bytes BLOB NOT NULL, UNIQUE (hash, kind, part)
  );
`;

/** Maximum bytes of a part. A part is a table row, which has at most 2 MB in a Durable Object. */
const partBytes = 2 ** 20;

interface PartRow extends Record<string, SqlStorageValue> {
  part: number;
  parts: number;
  iv: ArrayBuffer;
  bytes: ArrayBuffer;
}

const encoder = new TextEncoder();

export class SealedStore {
  readonly #storage: DurableObjectStorage;
  readonly #randomBytes: (count: number) => Uint8Array;
  #key: Promise<CryptoKey> | null = null;

  constructor(storage: DurableObjectStorage, randomBytes: (count: number) => Uint8Array) {
    this.#storage = storage;
    this.#randomBytes = randomBytes;
    storage.sql.exec(schema);
  }

  /** Encrypts bytes, given by kind. Resolves to a function that stores them under `hash`; call it if they are still wanted. */
  async seal(hash: string, byKind: Record<string, Uint8Array>): Promise<() => void> {
    const key = await this.#tenantKey();
    const rows: [string, number, number, Uint8Array, ArrayBuffer][] = [];
    for (const [kind, content] of Object.entries(byKind)) {
      const bytes = await gzip(content);
      const parts = Math.ceil(bytes.length / partBytes);
      for (let part = 0; part < parts; part++) {
        const iv = this.#randomBytes(12);
        const plain = bytes.subarray(part * partBytes, (part + 1) * partBytes);
        const sealed = await crypto.subtle.encrypt(cipher(iv, hash, kind, part, parts), key, plain);
        rows.push([kind, part, parts, iv, sealed]);
      }
    }
    return () =>
      this.#storage.transactionSync(() => {
        this.delete(hash);
        const insert = "INSERT INTO documentParts VALUES (?, ?, ?, ?, ?, ?)";
        for (const row of rows) this.#storage.sql.exec(insert, hash, ...row);
      });
  }

  /** Gzipped bytes of a kind; null if none are stored under this hash. */
  async compressed(hash: string, kind: string): Promise<Uint8Array | null> {
    const select = "SELECT part, parts, iv, bytes FROM documentParts WHERE hash = ? AND kind = ? ORDER BY part";
    const rows = this.#storage.sql.exec<PartRow>(select, hash, kind).toArray();
    if (rows.length === 0) return null;
    if (rows.length !== rows[0].parts) throw new Error(`${rows.length} of ${rows[0].parts} parts are left`);
    const key = await this.#tenantKey();
    const plain = rows.map(async ({ part, parts, iv, bytes }) => {
      const how = cipher(new Uint8Array(iv), hash, kind, part, parts);
      return new Uint8Array(await crypto.subtle.decrypt(how, key, bytes));
    });
    return joinArrays(Uint8Array, await Promise.all(plain));
  }

  async json<T>(hash: string, kind: string): Promise<T | null> {
    const bytes = await this.compressed(hash, kind);
    return bytes && (JSON.parse(await gunzippedText(bytes)) as T);
  }

  delete(hash: string): void {
    this.#storage.sql.exec("DELETE FROM documentParts WHERE hash = ?", hash);
  }

  erase(): void {
    this.#key = null;
    this.#storage.sql.exec("UPDATE documentKey SET bytes = zeroblob(32)");
    this.#storage.sql.exec("DELETE FROM documentKey");
    this.#storage.sql.exec("DELETE FROM documentParts");
  }

  #tenantKey(): Promise<CryptoKey> {
    this.#key ??= crypto.subtle.importKey("raw", this.#keyBytes(), "AES-GCM", false, ["encrypt", "decrypt"]);
    return this.#key;
  }

  #keyBytes(): ArrayBuffer | Uint8Array {
    const [row] = this.#storage.sql.exec<{ bytes: ArrayBuffer }>("SELECT bytes FROM documentKey");
    if (row) return row.bytes;
    const bytes = this.#randomBytes(32);
    this.#storage.sql.exec("INSERT INTO documentKey VALUES (0, ?)", bytes);
    return bytes;
  }
}

/** Security: the additional data authenticate a part's place, so that no part can be swapped for another. */
function cipher(iv: Uint8Array, hash: string, kind: string, part: number, parts: number) {
  return { name: "AES-GCM", iv, additionalData: encoder.encode(JSON.stringify([hash, kind, part, parts])) };
}

export function jsonBytes(value: unknown): Uint8Array {
  return encoder.encode(JSON.stringify(value));
}

export function gzip(bytes: Uint8Array): Promise<Uint8Array> {
  return piped(bytes, new CompressionStream("gzip"));
}

export function gunzip(bytes: Uint8Array): Promise<Uint8Array> {
  return piped(bytes, new DecompressionStream("gzip"));
}

export async function gunzippedText(bytes: Uint8Array): Promise<string> {
  return new TextDecoder().decode(await gunzip(bytes));
}

async function piped(bytes: Uint8Array, through: CompressionStream | DecompressionStream): Promise<Uint8Array> {
  return new Response(new Blob([bytes]).stream().pipeThrough(through)).bytes();
}
