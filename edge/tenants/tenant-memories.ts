/**
 * The memories of a tenant's own adapters, in its Durable Object: their documents, and the jobs that have a backend make a memory of
 * them. A job is stored until it is done, and an alarm continues it, so it survives the loss of the object and of the backend, which
 * resumes what it had begun. A change makes a new set of documents under a new hash; the old one serves until the new one is made.
 */
import type { Documents } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { memoryHash } from "../../shared/contracts/memory-hash.ts";
import type { ErrorKind } from "../../shared/errors.ts";
import { CallFailure } from "../dispatch/call-failure.ts";
import type { AdapterCopy, BackendClient } from "../dispatch/client.ts";
import type { Charge } from "./consumption.ts";
import { centroidOf, type DocumentRecord, firstFree, memoryBody, type NewDocument } from "./memory-documents.ts";
import { type MemoryJob, type MemoryRecord, wantedOf } from "./own-adapters.ts";
import { gunzippedText, jsonBytes, type SealedStore } from "./sealed-store.ts";

const schema = `
  CREATE TABLE IF NOT EXISTS memories (
    name TEXT PRIMARY KEY, readyHash TEXT, jobHash TEXT, record TEXT NOT NULL
  ) WITHOUT ROWID;
`;

/** A change of an adapter's documents. */
export interface DocumentChange {
  manifestHash: string;
  /** JSON of NewDocument[], compressed by gzip: a message between objects has at most 32 MiB. null: none. */
  added: Uint8Array | null;
  /** Name of a document to remove; null: none. */
  removed: string | null;
  /** Most tokens of all memories of the tenant; null: no limit. */
  maxTenantTokens: number | null;
  /** For what is added; null: nothing. */
  charge: Charge | null;
  /** Of a new memory: false deletes the documents when it is ready. */
  keep?: boolean;
}

/** The job that a change has become. */
export interface Changed {
  hash: string;
  /** It takes the place of a job that was not done, and has what that added. */
  joinsJob: boolean;
}

export interface Refused {
  kind: ErrorKind;
  message: string;
  param: string | null;
  retryAfterSeconds?: number | null;
}

/** How a job stands. `queued`: no backend takes it now, for the reason in `error`, and the alarm tries again. */
export interface JobOutcome {
  status: "ready" | "queued" | "failed" | "cancelled";
  error: Refused | null;
}

interface MemoryParts {
  tenant: string;
  storage: DurableObjectStorage;
  now(): number;
  /** Holds the documents by the hash of their memory, and what is known of them in the same order. */
  sealed: SealedStore;
  /** Of the backends that may have the tenant's data. */
  clients(): Iterable<BackendClient>;
  /** A backend has, or may have, a copy. */
  noteCopy(hash: string, copy: AdapterCopy): void;
  /** Deletes a memory that no adapter has any more, at the backends too, after `delayMs`. */
  retire(hash: string, name: string, delayMs: number): Promise<void>;
  /** The memory is wanted again. */
  keep(hash: string): void;
  /** Stores what requests have used, in the present transaction, and has it counted. */
  count(charges: readonly Charge[], which: "consumed" | "otherwise"): void;
  /** Tokens and embeddings of documents, in their order, as artifacts of another manifest give them. */
  encode(manifestHash: string, documents: Documents): Promise<Pick<NewDocument, "tokens" | "embedding">[]>;
  /** The memory of an adapter is ready, in the transaction that stores it. */
  ready(name: string, manifestHash: string): void;
  /** What `list` returns has changed, by something else than `remove` and `erase`. */
  changed(): void;
}

/** How long the documents of a set that was replaced stay, in milliseconds: answers that began with it read it until they end. */
export const replacedMs = 600_000;

export class TenantMemories {
  readonly #parts: MemoryParts;
  readonly #sql: SqlStorage;
  /** Changes take effect one after the other. */
  #changes: Promise<unknown> = Promise.resolve();
  /** By name, the job that runs. */
  readonly #running = new Map<string, { hash: string; abort: AbortController; outcome: Promise<JobOutcome> }>();
  /** Tokens that a running job has finished, by hash. */
  readonly #built = new Map<string, number>();

  constructor(parts: MemoryParts) {
    this.#parts = parts;
    this.#sql = parts.storage.sql;
    this.#sql.exec(schema);
  }

  list(): MemoryRecord[] {
    const rows = this.#sql.exec<{ name: string; record: string }>("SELECT name, record FROM memories");
    return [...rows].map((row) => this.#recordOf(row));
  }

  find(name: string): MemoryRecord | null {
    const [row] = this.#sql.exec<{ name: string; record: string }>(
      "SELECT name, record FROM memories WHERE name = ?",
      name,
    );
    return row ? this.#recordOf(row) : null;
  }

  /** An adapter's documents: those in use, else those being made a memory. */
  async recordsOf(name: string): Promise<Omit<DocumentRecord, "embedding">[]> {
    const memory = this.find(name);
    const set = memory?.ready ?? memory?.job ?? null;
    const records = set === null ? [] : await this.#stored<DocumentRecord>(set.hash, "records");
    return records.map(({ embedding, ...record }) => record);
  }

  /** JSON of a memory's documents, compressed by gzip; null if there are none under this hash. */
  texts(hash: string): Promise<Uint8Array | null> {
    return this.#parts.sealed.compressed(hash, "texts");
  }

  async #stored<T>(hash: string, kind: "texts" | "records"): Promise<T[]> {
    return (await this.#parts.sealed.json<T[]>(hash, kind)) ?? [];
  }

  isUnused(hash: string): boolean {
    const select = "SELECT 1 FROM memories WHERE readyHash = ? OR jobHash = ? LIMIT 1";
    return this.#sql.exec(select, hash, hash).toArray().length === 0;
  }

  /**
   * Stores the changed documents of an adapter as a job. Returns why not, and then nothing has changed. `refusal` says why there may be
   * no such change, or null; it is asked again before the change takes effect.
   */
  change<T>(name: string, change: DocumentChange, refusal: () => T | null): Promise<Changed | Refused | T> {
    const changed = this.#changes.then(() => this.#change(name, change, refusal));
    this.#changes = changed.catch(() => undefined);
    return changed;
  }

  /** Stores a job that makes the memory of an adapter for another manifest. Returns why not. */
  async remake(name: string, manifestHash: string): Promise<Refused | null> {
    const change = { manifestHash, added: null, removed: null, maxTenantTokens: null, charge: null };
    const isGone = () => (this.find(name) ? null : refused("adapter_not_found", `You have no adapter ${name}.`));
    const changed = await this.change(name, change, isGone);
    return "kind" in changed ? changed : null;
  }

  async #change<T>(name: string, change: DocumentChange, refusal: () => T | null): Promise<Changed | Refused | T> {
    const refusedFirst = refusal();
    if (refusedFirst !== null) return refusedFirst;
    const { manifestHash, added, removed, maxTenantTokens, charge } = change;
    const before = this.find(name);
    const current = wantedOf(before);
    if (current !== null && before?.keep === false) {
      const message = `The documents of ${name} were not kept (keep: false), so nothing can be made of them again.`;
      return refused("invalid_request", message, "documents");
    }
    const [documents, records]: [Documents, DocumentRecord[]] =
      current === null
        ? [[], []]
        : await Promise.all([
            this.#stored<Documents[number]>(current.hash, "texts"),
            this.#stored<DocumentRecord>(current.hash, "records"),
          ]);
    if (current !== null && current.manifestHash !== manifestHash) {
      const encoded = await this.#parts.encode(manifestHash, documents);
      for (const [i, record] of records.entries()) Object.assign(record, encoded[i]);
    }
    if (removed !== null) {
      const at = documents.findIndex((one) => one.name === removed);
      if (at < 0) return refused("not_found", `${name} has no document ${JSON.stringify(removed.slice(0, 80))}.`);
      documents.splice(at, 1);
      records.splice(at, 1);
      if (documents.length === 0) {
        return refused("invalid_request", `This is the only document of ${name}; DELETE /v1/adapters/${name} instead.`);
      }
    }
    const list = added === null ? [] : (JSON.parse(await gunzippedText(added)) as NewDocument[]);
    const names = new Set(documents.map((one) => one.name));
    for (const { name: given, text, tokens, embedding } of list) {
      const documentName = given ?? firstFree(names);
      if (names.has(documentName)) {
        const shown = JSON.stringify(documentName.slice(0, 80));
        return refused(
          "invalid_request",
          `Two documents are named ${shown}; each needs a name of its own.`,
          "documents",
        );
      }
      names.add(documentName);
      documents.push({ name: documentName, text });
      records.push({ name: documentName, tokens, bytes: new TextEncoder().encode(text).length, embedding });
    }
    const sum = (value: (record: DocumentRecord) => number) => records.reduce((total, one) => total + value(one), 0);
    const tokens = sum((one) => one.tokens);
    const beyond = this.#beyondLimits(name, documents.length, tokens, maxTenantTokens);
    if (beyond) return beyond;
    const hash = await memoryHash(this.#parts.tenant, manifestHash, documents);
    const set = {
      ...{ hash, manifestHash },
      documents: documents.length,
      tokens,
      bytes: sum((one) => one.bytes),
      centroid: centroidOf(records),
    };
    if (hash !== current?.hash) {
      const byKind = { texts: jsonBytes(documents), records: jsonBytes(records) };
      const store = await this.#parts.sealed.seal(hash, byKind);
      store();
    }
    const now = this.find(name);
    const refusedLast = refusal();
    // Deleted or erased meanwhile, or its job ended: a change of what is there no more would bring it back.
    if (refusedLast !== null || wantedOf(now)?.hash !== current?.hash) {
      if (this.isUnused(hash)) this.#parts.sealed.delete(hash);
      return refusedLast ?? this.#change(name, change, refusal);
    }
    this.#parts.keep(hash);
    const replaced = now?.job ?? null;
    const charges = [...(replaced?.charges ?? []), ...(charge ? [charge] : [])];
    if (replaced?.hash !== hash) this.#running.get(name)?.abort.abort();
    this.#write(name, {
      created: now?.created ?? Math.floor(this.#parts.now() / 1000),
      keep: now ? now.keep : change.keep,
      ready: now?.ready ?? null,
      job: { ...set, status: "queued", builtTokens: 0, error: null, charges },
    });
    if (replaced && this.isUnused(replaced.hash)) await this.#parts.retire(replaced.hash, name, 0);
    return { hash, joinsJob: replaced !== null && replaced.status !== "failed" };
  }

  #beyondLimits(name: string, documents: number, tokens: number, maxTenantTokens: number | null): Refused | null {
    if (documents > limits.documents) {
      const message = `${name} would have ${documents} documents, the maximum is ${limits.documents}.`;
      return refused("invalid_request", message, "documents");
    }
    if (tokens > limits.memoryTokens) {
      const message = `The documents of ${name} would have ${tokens} tokens, the maximum is ${limits.memoryTokens}.`;
      return refused("invalid_request", message, "documents");
    }
    const others = this.list().filter((one) => one.name !== name);
    const all = others.reduce((total, one) => total + (wantedOf(one)?.tokens ?? 0), tokens);
    if (maxTenantTokens === null || all <= maxTenantTokens) return null;
    const message = `Your memories would have ${all} tokens together, the maximum is ${maxTenantTokens}; delete some first.`;
    return refused("adapter_quota_exceeded", message);
  }

  /** Runs an adapter's job, or awaits it if it runs already. Never rejects. */
  build(name: string): Promise<JobOutcome> {
    const job = this.find(name)?.job ?? null;
    const running = this.#running.get(name);
    if (running && running.hash === job?.hash) return running.outcome;
    if (!job || job.status === "failed") {
      return Promise.resolve({ status: job ? "failed" : "ready", error: null });
    }
    const abort = new AbortController();
    const outcome = this.#build(name, job, abort.signal).finally(() => {
      this.#built.delete(job.hash);
      if (this.#running.get(name)?.abort === abort) this.#running.delete(name);
    });
    this.#running.set(name, { hash: job.hash, abort, outcome });
    return outcome;
  }

  /** Runs all jobs that are not done. True if some are left. */
  async buildAll(): Promise<boolean> {
    let areLeft = false;
    for (const { name, job } of this.list()) {
      if (!job || job.status === "failed") continue;
      const { status } = await this.build(name);
      areLeft ||= status === "queued";
    }
    return areLeft;
  }

  async #build(name: string, job: MemoryJob, signal: AbortSignal): Promise<JobOutcome> {
    const isOver = () => signal.aborted || this.find(name)?.job?.hash !== job.hash;
    let error = refused("backend_unavailable", "No backend is configured.");
    let [isMade, isFinal] = [false, false];
    try {
      const body = await memoryBody(job.manifestHash, await this.texts(job.hash));
      for (const client of this.#parts.clients()) {
        if (isOver()) break;
        try {
          await client.putMemory(this.#parts.tenant, job.hash, body, {
            ...{ signal, process: null },
            begun: (copy) => this.#parts.noteCopy(job.hash, copy),
            progress: (tokens) => this.#built.set(job.hash, tokens),
          });
          isMade = true;
          // Else no backend can be given it later.
          if (this.find(name)?.keep !== false) break;
        } catch (thrown) {
          if (!(thrown instanceof CallFailure)) throw thrown;
          const { kind, message, retryAfterSeconds } = thrown.error;
          error = { kind, message, param: null, retryAfterSeconds };
          isFinal = !thrown.consequence.retryElsewhere;
          if (isFinal) break;
        }
      }
      if (isMade && !isOver()) await this.#finish(name);
    } catch (thrown) {
      error = refused("internal", "The memory could not be made.");
      isFinal = true;
      console.warn(JSON.stringify({ level: "warn", event: "memory_failed", cause: String(thrown) }));
    }
    const now = this.find(name);
    if (now?.ready?.hash === job.hash) return { status: "ready", error: null };
    if (!now || isOver()) return { status: "cancelled", error: null };
    const status = isFinal ? "failed" : "queued";
    const { charges } = now.job!;
    if (isFinal) this.#parts.count(charges.splice(0), "otherwise");
    this.#write(name, { ...now, job: { ...job, status, builtTokens: 0, error: error.message, charges } });
    if (isFinal && this.isUnused(job.hash)) await this.#parts.retire(job.hash, name, 0);
    return { status, error };
  }

  async #finish(name: string): Promise<void> {
    const before = this.find(name)!;
    const { status, builtTokens, error, charges, ...ready } = before.job!;
    this.#parts.count(charges, "consumed");
    this.#write(name, { ...before, ready, job: null });
    this.#parts.ready(name, ready.manifestHash);
    const old = before.ready;
    if (old && this.isUnused(old.hash)) await this.#parts.retire(old.hash, name, replacedMs);
  }

  /** Gives up the job of an adapter unless another has taken its place; one that never had a memory has none then. */
  async abandon(name: string, hash: string): Promise<void> {
    const before = this.find(name);
    if (before?.job?.hash !== hash) return;
    this.#running.get(name)?.abort.abort();
    if (before.ready) this.#write(name, { ...before, job: null });
    else this.#sql.exec("DELETE FROM memories WHERE name = ?", name);
    this.#parts.changed();
    if (this.isUnused(before.job.hash)) await this.#parts.retire(before.job.hash, name, 0);
  }

  /** Removes an adapter's memory and cancels its job. Returns the hashes that no other adapter has. */
  remove(name: string): string[] {
    const before = this.find(name);
    // As for a client that leaves: what a backend has begun is charged.
    if (before?.job) this.#parts.count(before.job.charges, before.job.builtTokens > 0 ? "consumed" : "otherwise");
    this.#running.get(name)?.abort.abort();
    this.#sql.exec("DELETE FROM memories WHERE name = ?", name);
    this.#deleteUnkept();
    const hashes = [before?.ready?.hash, before?.job?.hash].filter((hash) => hash !== undefined);
    return [...new Set(hashes)].filter((hash) => this.isUnused(hash));
  }

  /** Forgets everything and cancels all jobs. */
  erase(): void {
    for (const { abort } of this.#running.values()) abort.abort();
    this.#sql.exec("DELETE FROM memories");
  }

  #recordOf({ name, record }: { name: string; record: string }): MemoryRecord {
    const { job, ...rest } = JSON.parse(record) as Omit<MemoryRecord, "name">;
    const isRunning = job !== null && this.#running.get(name)?.hash === job.hash;
    const running = isRunning && { status: "building" as const, builtTokens: this.#built.get(job.hash) ?? 0 };
    return { name, ...rest, job: job && { ...job, ...running } };
  }

  #write(name: string, { created, keep, ready, job }: Omit<MemoryRecord, "name">): void {
    // The documents of a failed job are deleted, so it holds no hash.
    const jobHash = job && job.status !== "failed" ? job.hash : null;
    const stored = job && { ...job, status: job.status === "failed" ? "failed" : "queued", builtTokens: 0 };
    const record = JSON.stringify({ created, keep, ready, job: stored });
    this.#sql.exec("INSERT OR REPLACE INTO memories VALUES (?, ?, ?, ?)", name, ready?.hash ?? null, jobHash, record);
    this.#deleteUnkept();
    this.#parts.changed();
  }

  /** Deletes the documents of ready memories that no adapter keeps or is making. */
  #deleteUnkept(): void {
    const all = this.list();
    const wanted = new Set(all.flatMap(({ ready, job, keep }) => [keep === false ? null : ready?.hash, job?.hash]));
    for (const { ready } of all) if (ready && !wanted.has(ready.hash)) this.#parts.sealed.delete(ready.hash);
  }
}

function refused(kind: ErrorKind, message: string, param: string | null = null): Refused {
  return { kind, message, param };
}
