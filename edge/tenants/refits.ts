/**
 * Makes a tenant's own adapters again for the artifacts that are served, in its Durable Object: fitted parts of the kept examples, a
 * memory of the kept documents. An adapter changes in one write when all of it is made; until then it answers with the artifacts it was
 * made for. Nothing is charged for it.
 */
import type { Example } from "../../shared/contracts/examples.ts";
import {
  type AdapterRequest,
  contractVersion,
  type Documents,
  type EncodedExample,
} from "../../shared/contracts/inference.ts";
import { type ErrorKind, ServiceError, toServiceError } from "../../shared/errors.ts";
import type { MadeAdapter } from "../dispatch/client.ts";
import type { NewDocument } from "./memory-documents.ts";
import { type FailedRefit, isWaiting, type KeptExamples, type OwnAdapter, wantedOf } from "./own-adapters.ts";
import type { SealedStore } from "./sealed-store.ts";
import type { JobOutcome, Refused } from "./tenant-memories.ts";
import type { JobContent } from "./tuning-jobs.ts";

const schema = `
  CREATE TABLE IF NOT EXISTS refits (
    name TEXT PRIMARY KEY, manifestHash TEXT NOT NULL, error TEXT, isFinal INTEGER NOT NULL DEFAULT 0, hash TEXT, record TEXT
  ) WITHOUT ROWID;
`;

/** Reads texts as artifacts of a manifest do. */
export interface Encoder {
  /** Hash of the manifest that is served now. */
  served(): Promise<string>;
  documents(manifestHash: string, documents: Documents): Promise<Pick<NewDocument, "tokens" | "embedding">[]>;
  examples(
    manifestHash: string,
    examples: readonly Example[],
    nowMs: number,
  ): Promise<{ examples: EncodedExample[]; centroid: Float32Array; tokens: number }>;
}

/** `postponed`: the try failed, and is repeated. */
export type RefitOutcome = "begun" | "done" | "postponed" | "failed";

interface RefitParts {
  tenant: string;
  sql: SqlStorage;
  now(): number;
  sealed: SealedStore;
  encoder(): Encoder;
  list(): OwnAdapter[];
  find(name: string): OwnAdapter | null;
  /** When an adapter was last used, as far as this object knows. */
  usedMs(name: string): number;
  make(request: AdapterRequest, signal: AbortSignal): Promise<MadeAdapter>;
  /** Stores a job that makes an adapter's memory for another manifest, or says why not. */
  remake(name: string, manifestHash: string): Promise<Refused | null>;
  build(name: string): Promise<JobOutcome>;
  /** A backend has a copy of fitted parts. */
  noteCopy(hash: string, copy: MadeAdapter["copy"]): void;
  /** Deletes fitted parts that no adapter has. */
  discard(hash: string, name: string): Promise<void>;
  /** Fitted parts are wanted. */
  keep(hash: string): void;
  /** Fitted parts were replaced: deletes them later, after answers that have begun with them, unless another adapter has them. */
  retire(hash: string, name: string): void;
  count(outcome: RefitOutcome): void;
  /** What `list` returns has changed. */
  changed(): void;
}

/** Errors that the next try would have, too. */
const finalKinds: readonly ErrorKind[] = [
  "invalid_request",
  "context_length_exceeded",
  "adapter_quota_exceeded",
  "internal",
];

type Row = { name: string; manifestHash: string; error: string | null; isFinal: number };

export class Refits {
  readonly #parts: RefitParts;
  #pass: Promise<boolean> | null = null;
  #abort = new AbortController();

  constructor(parts: RefitParts) {
    this.#parts = parts;
    parts.sql.exec(schema);
  }

  /** The last tries that failed, by name of the adapter. */
  failures(): Map<string, FailedRefit> {
    const rows = this.#parts.sql.exec<Row>("SELECT name, manifestHash, error, isFinal FROM refits");
    const failed = [...rows].filter(({ error }) => error !== null);
    return new Map(
      failed.map(({ name, manifestHash, error, isFinal }) => [
        name,
        { manifestHash, error: error!, isFinal: isFinal === 1 },
      ]),
    );
  }

  /** Makes all adapters of other artifacts again, one after the other, the last used first. True if some are left. Never rejects. */
  runAll(): Promise<boolean> {
    this.#pass ??= this.#runAll().finally(() => {
      this.#pass = null;
    });
    return this.#pass;
  }

  async #runAll(): Promise<boolean> {
    const { list, find, usedMs, encoder } = this.#parts;
    if (list().length === 0) return false;
    const manifestHash = await encoder()
      .served()
      .catch(() => null);
    if (manifestHash === null) return true;
    const waiting = list().filter((adapter) => isWaiting(adapter, manifestHash));
    for (const { name } of waiting) this.#note(name, manifestHash);
    const usedLast = waiting.sort((a, b) => usedMs(b.name) - usedMs(a.name) || b.created - a.created);
    let areLeft = false;
    for (const { name } of usedLast) {
      const adapter = find(name);
      if (!adapter || !isWaiting(adapter, manifestHash)) continue;
      if (!(await this.#refit(adapter, manifestHash))) areLeft = true;
    }
    return areLeft;
  }

  /** An adapter is to be made again. */
  #note(name: string, manifestHash: string): void {
    const { rowsWritten } = this.#parts.sql.exec(
      `INSERT INTO refits (name, manifestHash) VALUES (?, ?) ON CONFLICT (name) DO UPDATE
         SET manifestHash = excluded.manifestHash, error = NULL, isFinal = 0
         WHERE manifestHash <> excluded.manifestHash AND hash IS NULL`,
      ...[name, manifestHash],
    );
    if (rowsWritten > 0) this.#parts.count("begun");
  }

  /** True when it is made, or cannot be. */
  async #refit({ name, hash, memory = null }: OwnAdapter, manifestHash: string): Promise<boolean> {
    let isFinal = false;
    try {
      if (hash !== null) await this.#fit(name, hash, manifestHash);
      const wanted = wantedOf(memory);
      if (wanted === null) {
        if (hash === null) throw new ServiceError("invalid_request", "Its documents are gone.");
        this.finish(name, manifestHash);
        return true;
      }
      const refused = wanted.manifestHash === manifestHash ? null : await this.#parts.remake(name, manifestHash);
      if (refused) throw new ServiceError(refused.kind, refused.message);
      const { status, error } = await this.#parts.build(name);
      isFinal = status === "failed";
      if (error) throw new ServiceError(error.kind, error.message);
      return status === "ready";
    } catch (thrown) {
      const { kind, message } = toServiceError(thrown);
      isFinal ||= finalKinds.includes(kind);
      if (kind === "internal") {
        console.warn(JSON.stringify({ level: "warn", event: "refit_failed", cause: String(thrown) }));
      }
      // Deleted meanwhile.
      if (!this.#parts.find(name)) return true;
      this.#parts.sql.exec(
        `INSERT INTO refits (name, manifestHash, error, isFinal) VALUES (?, ?, ?, ?)
         ON CONFLICT (name) DO UPDATE SET error = excluded.error, isFinal = excluded.isFinal`,
        ...[name, manifestHash, message, Number(isFinal)],
      );
      this.#parts.count(isFinal ? "failed" : "postponed");
      this.#parts.changed();
      return isFinal;
    }
  }

  /** Fits the examples of an adapter whose fitted parts are `before`, and keeps the result until the memory is made, too. */
  async #fit(name: string, before: string, manifestHash: string): Promise<void> {
    const { tenant, sql, now, sealed, encoder, find, make, keep } = this.#parts;
    const [known] = sql.exec<Row & { hash: string | null }>("SELECT * FROM refits WHERE name = ?", name);
    if (known?.manifestHash === manifestHash && known.hash !== null) return;
    // Of artifacts that were served in between.
    if (known && known.manifestHash !== manifestHash) await this.#discard(name);
    const stored = await sealed.json<KeptExamples>(examplesOf(name), "examples");
    if (!stored?.examples.length) throw new ServiceError("invalid_request", "Its examples were not kept.");
    const { request, centroid, tokens } = await contentFor(encoder(), { manifestHash, tenant }, stored, now());
    const { hash, kept: isKept, gain, file, copy } = await make(request, this.#abort.signal);
    const store = await sealed.seal(hash, { file: Uint8Array.fromBase64(file) });
    const adapter = find(name);
    const isWanted = adapter?.hash === before;
    if (isWanted) {
      const { memory, refit, ...same } = adapter;
      const changed = { hash, manifestHash, centroid, gain: isKept ? gain : null, tokens };
      store();
      keep(hash);
      sql.exec(
        "INSERT OR REPLACE INTO refits (name, manifestHash, hash, record) VALUES (?, ?, ?, ?)",
        ...[name, manifestHash, hash, JSON.stringify({ ...same, ...changed })],
      );
    }
    this.#parts.noteCopy(hash, copy);
    if (!isWanted) await this.#parts.discard(hash, name);
  }

  /** All of an adapter is made for this manifest: its fitted parts change, in the present transaction. */
  finish(name: string, manifestHash: string): void {
    const { sql, keep, retire, changed } = this.#parts;
    type Fitted = { hash: string; record: string };
    const select = "SELECT hash, record FROM refits WHERE name = ? AND manifestHash = ? AND hash IS NOT NULL";
    const [made] = sql.exec<Fitted>(select, name, manifestHash);
    const { rowsWritten } = sql.exec("DELETE FROM refits WHERE name = ?", name);
    if (rowsWritten > 0) this.#parts.count("done");
    const [old] = sql.exec<Fitted>("SELECT hash, record FROM adapters WHERE name = ?", name);
    if (made && old) {
      const { hash, record } = made;
      sql.exec("INSERT OR REPLACE INTO adapters VALUES (?, ?, ?)", name, hash, record);
      keep(hash);
      if (old.hash !== hash) retire(old.hash, name);
    }
    changed();
  }

  /** Forgets what was made for an adapter that is removed. Returns the hash of fitted parts that backends have. */
  remove(name: string): string[] {
    const rows = this.#parts.sql.exec<{ hash: string | null }>("SELECT hash FROM refits WHERE name = ?", name);
    const hashes = [...rows].flatMap(({ hash }) => hash ?? []);
    this.#parts.sql.exec("DELETE FROM refits WHERE name = ?", name);
    return hashes;
  }

  async #discard(name: string): Promise<void> {
    for (const hash of this.remove(name)) await this.#parts.discard(hash, name);
  }

  erase(): void {
    this.#abort.abort();
    this.#abort = new AbortController();
    this.#parts.sql.exec("DELETE FROM refits");
  }
}

/** What is fitted to examples for a manifest, and their tokens. */
async function contentFor(
  encoder: Encoder,
  { manifestHash, tenant }: Pick<AdapterRequest, "manifestHash" | "tenant">,
  kept: KeptExamples,
  nowMs: number,
): Promise<JobContent & { tokens: number }> {
  const { examples, centroid, tokens } = await encoder.examples(manifestHash, kept.examples, nowMs);
  const validation = kept.validation && (await encoder.examples(manifestHash, kept.validation, nowMs));
  return {
    request: {
      ...{ version: contractVersion, manifestHash, tenant, examples },
      ...(validation && { validation: validation.examples }),
    },
    ...{ centroid: [...centroid], examples: kept, tokens: tokens + (validation?.tokens ?? 0) },
  };
}

/** What a job works on, for the artifacts that are served now: it may have been stored before these were published. */
export async function currentContent(encoder: Encoder, content: JobContent, nowMs: number): Promise<JobContent> {
  const manifestHash = await encoder.served();
  const { request, examples } = content;
  if (request.manifestHash === manifestHash) return content;
  return contentFor(encoder, { manifestHash, tenant: request.tenant }, examples, nowMs);
}

/** Under which the examples of an adapter are sealed. */
export function examplesOf(name: string): string {
  return `examples:${name}`;
}
