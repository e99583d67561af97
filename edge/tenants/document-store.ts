/**
 * The documents of a tenant's memories, in the tenant's Durable Object: compressed, and encrypted with AES-GCM under a key of the
 * tenant's own, which is stored beside them. Destroying the key makes every copy of the rows unreadable. The platform can restore an
 * object to any point of its last 30 days, key included; it does so only on request of the account's owner.
 */
import { joinArrays } from "../../shared/bytes.ts";
import type { Documents } from "../../shared/contracts/inference.ts";

const schema = `
  CREATE TABLE IF NOT EXISTS documentKey (id INTEGER PRIMARY KEY CHECK (id = 0), bytes BLOB NOT NULL);
  CREATE TABLE IF NOT EXISTS documentParts (
    hash TEXT NOT NULL, kind TEXT NOT NULL, part INTEGER NOT NULL, parts INTEGER NOT NULL, iv BLOB NOT NULL,
    bytes BLOB NOT NULL, UNIQUE (hash, kind, part)
  );
`;

/** A row holds at most 2 MB. */
const partBytes = 2 ** 20;

/** What is known of a document besides its text. */
export interface DocumentRecord {
  name: string;
  tokens: number;
  /** Of its text in UTF-8. */
  bytes: number;
  /** Sum of the prompt embeddings of its windows, [P] float32 in base64. */
  embedding: string;
}

type Kind = "texts" | "records";

interface PartRow extends Record<string, SqlStorageValue> {
  part: number;
  parts: number;
  iv: ArrayBuffer;
  bytes: ArrayBuffer;
}

const encoder = new TextEncoder();

export class DocumentStore {
  readonly #storage: DurableObjectStorage;
  readonly #randomBytes: (count: number) => Uint8Array;
  #key: Promise<CryptoKey> | null = null;

  constructor(storage: DurableObjectStorage, randomBytes: (count: number) => Uint8Array) {
    this.#storage = storage;
    this.#randomBytes = randomBytes;
    storage.sql.exec(schema);
  }

  /** Stores the documents of the memory `hash`; all of them or, if it rejects, none. */
  async put(hash: string, documents: Documents, records: readonly DocumentRecord[]): Promise<void> {
    const key = await this.#tenantKey();
    const kinds: [Kind, unknown][] = [
      ["texts", documents],
      ["records", records],
    ];
    const rows: [Kind, number, number, Uint8Array, ArrayBuffer][] = [];
    for (const [kind, value] of kinds) {
      const bytes = await gzip(encoder.encode(JSON.stringify(value)));
      const parts = Math.ceil(bytes.length / partBytes);
      for (let part = 0; part < parts; part++) {
        const iv = this.#randomBytes(12);
        const plain = bytes.subarray(part * partBytes, (part + 1) * partBytes);
        const sealed = await crypto.subtle.encrypt(cipher(iv, hash, kind, part, parts), key, plain);
        rows.push([kind, part, parts, iv, sealed]);
      }
    }
    this.#storage.transactionSync(() => {
      this.delete(hash);
      const insert = "INSERT INTO documentParts VALUES (?, ?, ?, ?, ?, ?)";
      for (const row of rows) this.#storage.sql.exec(insert, hash, ...row);
    });
  }

  /** JSON of the documents, compressed by gzip; null if there are none under this hash. */
  texts(hash: string): Promise<Uint8Array | null> {
    return this.#read(hash, "texts");
  }

  /** Empty if there are none under this hash. */
  async documents(hash: string): Promise<Documents> {
    const bytes = await this.texts(hash);
    return bytes ? (JSON.parse(await gunzippedText(bytes)) as Documents) : [];
  }

  /** In the order of the documents; empty if there are none under this hash. */
  async records(hash: string): Promise<DocumentRecord[]> {
    const bytes = await this.#read(hash, "records");
    return bytes ? (JSON.parse(await gunzippedText(bytes)) as DocumentRecord[]) : [];
  }

  delete(hash: string): void {
    this.#storage.sql.exec("DELETE FROM documentParts WHERE hash = ?", hash);
  }

  /** Destroys the key, then the documents. */
  erase(): void {
    this.#key = null;
    this.#storage.sql.exec("UPDATE documentKey SET bytes = zeroblob(32)");
    this.#storage.sql.exec("DELETE FROM documentKey");
    this.#storage.sql.exec("DELETE FROM documentParts");
  }

  async #read(hash: string, kind: Kind): Promise<Uint8Array | null> {
    const select = "SELECT part, parts, iv, bytes FROM documentParts WHERE hash = ? AND kind = ? ORDER BY part";
    const rows = this.#storage.sql.exec<PartRow>(select, hash, kind).toArray();
    if (rows.length === 0) return null;
    if (rows.length !== rows[0].parts)
      throw new Error(`${rows.length} of ${rows[0].parts} parts of documents are left`);
    const key = await this.#tenantKey();
    const plain = rows.map(async ({ part, parts, iv, bytes }) => {
      const how = cipher(new Uint8Array(iv), hash, kind, part, parts);
      return new Uint8Array(await crypto.subtle.decrypt(how, key, bytes));
    });
    return joinArrays(Uint8Array, await Promise.all(plain));
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

/** A part's place is authenticated, so none can stand for another. */
function cipher(iv: Uint8Array, hash: string, kind: Kind, part: number, parts: number) {
  return { name: "AES-GCM", iv, additionalData: encoder.encode(JSON.stringify([hash, kind, part, parts])) };
}

export function gzip(bytes: Uint8Array): Promise<Uint8Array> {
  return bytesOf(new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip")));
}

/** Throws a TypeError for bytes that gzip did not make. */
export function gunzip(bytes: Uint8Array): Promise<Uint8Array> {
  return bytesOf(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
}

export async function gunzippedText(bytes: Uint8Array): Promise<string> {
  return new TextDecoder().decode(await gunzip(bytes));
}

async function bytesOf(stream: ReadableStream): Promise<Uint8Array> {
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
