/**
 * The Durable Object that stores one tenant's own adapters: records and bytes, which it uploads to any backend that lacks them, and
 * the documents of their memories (tenant-memories.ts). Examples are not stored.
 *
 * It records which backends may have a copy. A deletion is stored until each of them has confirmed it, and repeated by an alarm. One
 * that was removed from the configuration counts as pending, and is called within an hour after it is configured again.
 */
import { DurableObject } from "cloudflare:workers";
import { createSigner } from "../../shared/contracts/call-signature.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { jurisdictionOf } from "../../shared/contracts/tenant-name.ts";
import { dot } from "../../shared/math/assignment.ts";
import { settlesWithin } from "../../shared/settles-within.ts";
import { configured } from "../config.ts";
import { addressesIn, hasProcesses } from "../dispatch/addresses.ts";
import { type AdapterCopy, BackendClient } from "../dispatch/client.ts";
import { ensureAlarm } from "../platform/clock.ts";
import type { DocumentRecord } from "./document-store.ts";
import { adapterOf, type FittedAdapter, fittedOf, type OwnAdapter, type RecordRow } from "./own-adapters.ts";
import { type Changed, type DocumentChange, type JobOutcome, type Refused, TenantMemories } from "./tenant-memories.ts";

const schema = `
  CREATE TABLE IF NOT EXISTS adapters (
    name TEXT PRIMARY KEY, hash TEXT NOT NULL, record TEXT NOT NULL, file BLOB NOT NULL
  ) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS copies (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hash TEXT NOT NULL, address TEXT NOT NULL, process TEXT NOT NULL,
    sentMs INTEGER NOT NULL, UNIQUE (hash, address, process)
  );
  CREATE TABLE IF NOT EXISTS deletions (hash TEXT PRIMARY KEY, name TEXT NOT NULL, deletedMs INTEGER NOT NULL) WITHOUT ROWID;
`;

/** In place of a hash: all adapters and memories of the tenant, which is erased. */
const allHashes = "";
/** Before the hash of a memory, in the tables of copies and deletions. */
const memoryPrefix = "memory:";
/** Pauses between two tries to delete at backends, in milliseconds; each is twice the one before. */
const firstRetryMs = 5000;
const maxRetryMs = 3_600_000;
/** How long an alarm waits for jobs, in milliseconds; the platform ends one after 15 minutes, and the next continues. */
const alarmMs = 600_000;
/** A job that a request waits for is continued by the alarm if the object is lost meanwhile. */
const jobAlarmMs = 60_000;
/** Own adapters that `auto` considers for a prompt. */
const nearestAdapters = 3;
/** Timeout after which a deletion is answered as pending, in milliseconds. */
const answerMs = 3000;
/** An upload may arrive for so long after its bytes were read, so an earlier deletion is repeated. */
const uploadMs = 10_000;
/** For so long after an erasure, no adapter is added: it may have been begun before. */
const makingMs = 300_000;

export type Added = "added" | "taken" | "full" | "erased";

/** A deletion that backends have not confirmed. */
export interface PendingDeletion {
  name: string;
  /** Milliseconds since 1970. */
  deletedMs: number;
  /** Number of backends that have not confirmed it. */
  backends: number;
}

/** The tenant's own adapters for the prompts of a request. */
export interface NearestAdapters {
  /** It has adapters, of any manifest. */
  hasAny: boolean;
  /** For each prompt those that can be used, at most `nearestAdapters`, nearest first. */
  nearest: OwnAdapter[][];
}

export interface ErasedAdapters {
  adapters: number;
  /** Addresses of backends that have confirmed it, with the name of a process. */
  confirmed: string[];
  /** Those that have not; the alarm repeats it. */
  pending: string[];
  /** Addresses of several processes: of these only processes with a known copy are called, or any one if none is known. */
  partlyAsked: string[];
}

interface CopyRow extends Record<string, SqlStorageValue> {
  id: number;
  hash: string;
  address: string;
  /** Empty: no name. */
  process: string;
  sentMs: number;
}

export class TenantAdapterStore extends DurableObject<Env> {
  /** A clock in milliseconds since 1970; a test may set another. */
  now = () => Date.now();
  readonly #sql: SqlStorage;
  /** By address, of the tenant's jurisdiction. */
  readonly #clients: () => Map<string, BackendClient>;
  readonly #memories: TenantMemories;
  /** Of all adapters, what `nearest` ranks, so that a prompt reads no record but of those it gets; null after a change. */
  #ranked: { name: string; manifestHash: string; centroid: Float32Array; isUsable: boolean }[] | null = null;
  #failures = 0;

  constructor(state: DurableObjectState, env: Env) {
    super(state, env);
    this.#sql = state.storage.sql;
    this.#sql.exec(schema);
    const jurisdiction = jurisdictionOf(state.id.name ?? "");
    this.#clients = configured(env, ({ backendSecrets, backends, backendFetch }) => {
      const sign = createSigner(backendSecrets, () => Date.now());
      const addresses = addressesIn(jurisdiction, backends);
      return new Map(addresses.map(({ url }) => [url, new BackendClient(url, { sign, fetch: backendFetch })]));
    });
    this.#memories = new TenantMemories({
      tenant: state.id.name ?? "",
      storage: state.storage,
      now: () => this.now(),
      randomBytes: (count) => crypto.getRandomValues(new Uint8Array(count)),
      clients: () => this.#clients().values(),
      noteCopy: (hash, copy) => this.#noteCopy(memoryPrefix + hash, copy, this.now()),
      retire: (hash, name, delayMs) => this.#retire(hash, name, delayMs),
      keep: (hash) => void this.#sql.exec("DELETE FROM deletions WHERE hash = ?", memoryPrefix + hash),
      changed: () => {
        this.#ranked = null;
      },
    });
  }

  /** In order of name. */
  list(): OwnAdapter[] {
    const fitted = [...this.#sql.exec<RecordRow>("SELECT record FROM adapters")].map(fittedOf);
    const memories = new Map(this.#memories.list().map((memory) => [memory.name, memory]));
    const all = fitted.map((one) => adapterOf(one, memories.get(one.name) ?? null));
    for (const { name } of fitted) memories.delete(name);
    for (const memory of memories.values()) all.push(adapterOf(null, memory));
    return all.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  find(name: string): OwnAdapter | null {
    const [row] = this.#sql.exec<RecordRow>("SELECT record FROM adapters WHERE name = ?", name);
    const memory = this.#memories.find(name);
    return row || memory ? adapterOf(row ? fittedOf(row) : null, memory) : null;
  }

  /** The adapters nearest to prompts of these embeddings [S, P], among those that can be used with the manifest. */
  nearest(embeddings: Float32Array[], manifestHash: string): NearestAdapters {
    this.#ranked ??= this.list().map(({ name, manifestHash, centroid, gain, memory }) => {
      const isUsable = gain !== null || Boolean(memory?.ready);
      return { name, manifestHash, centroid: Float32Array.from(centroid), isUsable };
    });
    const usable = this.#ranked.filter((one) => one.isUsable && one.manifestHash === manifestHash);
    const nearest = embeddings.map((embedding) => {
      const ranked = usable.map(({ name, centroid }) => ({ name, similarity: dot(embedding, centroid) }));
      ranked.sort((a, b) => b.similarity - a.similarity);
      return ranked.slice(0, nearestAdapters).map(({ name }) => this.find(name)!);
    });
    return { hasAny: this.#ranked.length > 0, nearest };
  }

  documentsOf(name: string): Promise<Omit<DocumentRecord, "embedding">[]> {
    return this.#memories.recordsOf(name);
  }

  /**
   * Changes the documents of an adapter and stores the job that makes a memory of them; `isNew`: the adapter must not exist yet.
   * Returns why not, and then nothing has changed.
   */
  async changeDocuments(
    name: string,
    change: DocumentChange,
    isNew: boolean,
  ): Promise<Changed | Refused | Exclude<Added, "added">> {
    const absent: Refused = { kind: "adapter_not_found", message: `You have no adapter ${name}.`, param: null };
    const refusal = () => {
      if (!isNew) return this.find(name) ? null : absent;
      const room = this.#isJustErased() ? "erased" : this.roomFor(name);
      return room === "added" ? null : room;
    };
    // Before the job is stored, so that one is continued whenever the object is lost.
    await ensureAlarm(this.ctx.storage, this.now(), { delayMs: jobAlarmMs, maxDelayMs: jobAlarmMs });
    return this.#memories.change(name, change, refusal);
  }

  /** Makes the memory of an adapter now and resolves when it is made or cannot be. */
  build(name: string): Promise<JobOutcome> {
    return this.#memories.build(name);
  }

  /** Has the alarm make the memory of an adapter. */
  async buildLater(): Promise<void> {
    await this.ctx.storage.setAlarm(this.now());
  }

  /** Gives up the job of an adapter that makes the memory `hash`; one that has nothing else is gone then. */
  async abandon(name: string, hash: string): Promise<void> {
    await this.#memories.abandon(name, hash);
  }

  /**
   * JSON of a memory's documents for a backend, which is recorded as a copy; compressed by gzip. null if no adapter has this hash, or
   * had it a moment ago.
   */
  async texts(hash: string, copy: AdapterCopy): Promise<Uint8Array | null> {
    const texts = await this.#memories.documents.texts(hash);
    if (texts) this.#noteCopy(memoryPrefix + hash, copy, this.now());
    return texts;
  }

  /** Whether one of this name could be added. */
  roomFor(name: string): Added {
    if (this.find(name)) return "taken";
    const select = "SELECT count(*) AS count FROM (SELECT name FROM adapters UNION SELECT name FROM memories)";
    const { count } = this.#sql.exec<{ count: number }>(select).one();
    return count < limits.adaptersPerTenant ? "added" : "full";
  }

  /** Adds an adapter that a backend has made; one that is not added is deleted there. */
  async add(adapter: FittedAdapter, file: ArrayBuffer, copy: AdapterCopy): Promise<Added> {
    const { name, hash } = adapter;
    const room = this.#isJustErased() ? "erased" : this.roomFor(name);
    if (room === "added") {
      this.#sql.exec("INSERT INTO adapters VALUES (?, ?, ?, ?)", name, hash, JSON.stringify(adapter), file);
      this.#sql.exec("DELETE FROM deletions WHERE hash = ?", hash);
      this.#ranked = null;
    }
    this.#noteCopy(hash, copy, 0);
    if (this.#isUnused(hash)) await this.#delete(hash, name);
    return room;
  }

  /**
   * Removes an adapter, at the backends too unless another name has the same bytes. Returns how many backends have not confirmed it;
   * null if there is no such adapter.
   */
  async remove(name: string): Promise<number | null> {
    if (!this.find(name)) return null;
    this.#ranked = null;
    const [row] = this.#sql.exec<{ hash: string }>("SELECT hash FROM adapters WHERE name = ?", name);
    this.#sql.exec("DELETE FROM adapters WHERE name = ?", name);
    const unused = this.#memories.remove(name).map((hash) => memoryPrefix + hash);
    if (row && this.#isUnused(row.hash)) unused.push(row.hash);
    for (const hash of unused) this.#noteDeletion(hash, name);
    // Sets that were replaced, too: nothing of it stays for a while.
    const early = "UPDATE deletions SET deletedMs = ?1 WHERE name = ?2 AND deletedMs > ?1 RETURNING hash";
    for (const { hash } of this.#sql.exec<{ hash: string }>(early, this.now(), name)) unused.push(hash);
    await this.#deleteNoted();
    return new Set(unused.flatMap((hash) => this.#pending(hash).map(nameOf))).size;
  }

  /** The bytes of an adapter for a backend, which is recorded as a copy; null if no adapter has this hash. */
  file(hash: string, copy: AdapterCopy): ArrayBuffer | null {
    const [row] = this.#sql.exec<{ file: ArrayBuffer }>("SELECT file FROM adapters WHERE hash = ? LIMIT 1", hash);
    if (row) this.#noteCopy(hash, copy, this.now());
    return row?.file ?? null;
  }

  deletions(): PendingDeletion[] {
    const rows = this.#sql.exec<{ hash: string; name: string; deletedMs: number }>(
      "SELECT * FROM deletions WHERE hash <> ? ORDER BY deletedMs",
      allHashes,
    );
    // Fitted parts and memory of an adapter are one entry.
    const byName = Map.groupBy(rows, ({ name }) => name);
    const all = [...byName].map(([name, deleted]) => ({
      name,
      deletedMs: deleted[0].deletedMs,
      backends: new Set(deleted.flatMap(({ hash }) => this.#pending(hash).map(nameOf))).size,
    }));
    return all.filter(({ backends }) => backends > 0);
  }

  /** Erases all adapters of the tenant, here and at the backends of its jurisdiction. */
  async erase(): Promise<ErasedAdapters> {
    const adapters = this.list().length;
    this.#ranked = null;
    const copies = this.#sql.exec<CopyRow>("SELECT * FROM copies").toArray();
    const sentMs = Math.max(0, ...copies.map((copy) => copy.sentMs));
    this.ctx.storage.transactionSync(() => {
      this.#memories.erase();
      for (const table of ["adapters", "copies", "deletions"]) this.#sql.exec(`DELETE FROM ${table}`);
      for (const { address, process } of copies)
        this.#noteCopy(allHashes, { address, process: process || null }, sentMs);
      // Also where no copy is known: a request that failed may have made one.
      const known = new Set(copies.map(({ address }) => address));
      for (const address of this.#clients().keys()) {
        if (!known.has(address)) this.#noteCopy(allHashes, { address, process: null }, 0);
      }
      this.#noteDeletion(allHashes, "");
    });
    const copiesToDelete = this.#pending(allHashes);
    const called = copiesToDelete.map(nameOf);
    const partlyAsked = [...new Set(copiesToDelete.map(({ address }) => address).filter(hasProcesses))];
    await this.#delete(allHashes, "");
    const pending = this.#pending(allHashes).map(nameOf);
    return { adapters, confirmed: called.filter((name) => !pending.includes(name)), pending, partlyAsked };
  }

  override async alarm(): Promise<void> {
    const building = this.#memories.buildAll();
    await this.#deleteAtBackends();
    const isBuilt = await settlesWithin(building, alarmMs);
    const areJobsLeft = !isBuilt || (await building);
    const due = this.#due();
    this.#failures = due.length > 0 || areJobsLeft ? this.#failures + 1 : 0;
    const retryMs = Math.min(maxRetryMs, firstRetryMs * 2 ** this.#failures);
    const mayConfirm = due.some(({ address }) => this.#clients().has(address));
    const delays = [
      ...(isBuilt ? [] : [0]),
      ...(areJobsLeft || mayConfirm ? [retryMs] : []),
      ...(due.length > 0 ? [maxRetryMs] : []),
      ...this.#laterDeletions().map((atMs) => Math.max(0, atMs - this.now())),
    ];
    if (delays.length > 0) await this.ctx.storage.setAlarm(this.now() + Math.min(...delays));
  }

  #isUnused(hash: string): boolean {
    return this.#sql.exec("SELECT 1 FROM adapters WHERE hash = ? LIMIT 1", hash).toArray().length === 0;
  }

  /** Recording a copy again gives it a new id, so that an earlier deletion does not confirm this one. */
  #noteCopy(hash: string, { address, process }: AdapterCopy, sentMs: number): void {
    const values = [hash, address, process ?? "", sentMs];
    this.#sql.exec("INSERT OR REPLACE INTO copies (hash, address, process, sentMs) VALUES (?, ?, ?, ?)", ...values);
  }

  #noteDeletion(hash: string, name: string, atMs = this.now()): void {
    this.#sql.exec("INSERT OR REPLACE INTO deletions VALUES (?, ?, ?)", hash, name, atMs);
  }

  async #delete(hash: string, name: string): Promise<number> {
    this.#noteDeletion(hash, name);
    await this.#deleteNoted();
    return this.#pending(hash).length;
  }

  /** Deletes a memory that no adapter has any more, after `delayMs`. */
  async #retire(hash: string, name: string, delayMs: number): Promise<void> {
    this.#noteDeletion(memoryPrefix + hash, name, this.now() + delayMs);
    if (delayMs === 0) await this.#deleteNoted();
    else await ensureAlarm(this.ctx.storage, this.now(), { delayMs, maxDelayMs: delayMs });
  }

  async #deleteNoted(): Promise<void> {
    // Before the first try, so that it is repeated if the object is lost.
    await ensureAlarm(this.ctx.storage, this.now(), { delayMs: firstRetryMs, maxDelayMs: maxRetryMs });
    await settlesWithin(this.#deleteAtBackends(), answerMs);
  }

  /** Never rejects. */
  async #deleteAtBackends(): Promise<void> {
    for (const hash of this.#dueMemories()) this.#memories.documents.delete(hash);
    const tries = this.#due().map(async ({ id, hash, address, process, sentMs }) => {
      const client = this.#clients().get(address);
      if (!client) return;
      const tenant = this.ctx.id.name!;
      const ofMemory = hash.startsWith(memoryPrefix) ? hash.slice(memoryPrefix.length) : null;
      if (ofMemory !== null) await client.remove("memories", tenant, ofMemory, process || null);
      else await client.remove("adapters", tenant, hash === allHashes ? null : hash, process || null);
      if (hash === allHashes) await client.remove("memories", tenant, null, process || null);
      if (this.now() >= sentMs + uploadMs) this.#sql.exec("DELETE FROM copies WHERE id = ?", id);
    });
    await Promise.allSettled(tries);
    const done = "DELETE FROM deletions WHERE hash NOT IN (SELECT hash FROM copies) AND deletedMs <= ?";
    this.#sql.exec(this.#isJustErased() ? `${done} AND hash <> '${allHashes}'` : done, this.now());
  }

  #isJustErased(): boolean {
    const [row] = this.#sql.exec<{ deletedMs: number }>("SELECT deletedMs FROM deletions WHERE hash = ?", allHashes);
    return row !== undefined && Math.abs(this.now() - row.deletedMs) < makingMs;
  }

  /** Copies that are to be deleted now, also at backends that are not configured. */
  #due(): CopyRow[] {
    const select = "SELECT * FROM copies WHERE hash IN (SELECT hash FROM deletions WHERE deletedMs <= ?)";
    return this.#sql.exec<CopyRow>(select, this.now()).toArray();
  }

  /** Hashes of memories whose documents are to be deleted now. */
  #dueMemories(): string[] {
    const select = "SELECT hash FROM deletions WHERE hash LIKE ? AND deletedMs <= ?";
    const rows = this.#sql.exec<{ hash: string }>(select, `${memoryPrefix}%`, this.now());
    return [...rows].map(({ hash }) => hash.slice(memoryPrefix.length));
  }

  /** When each deletion that is to come later is due. */
  #laterDeletions(): number[] {
    const select = "SELECT deletedMs FROM deletions WHERE deletedMs > ?";
    const rows = this.#sql.exec<{ deletedMs: number }>(select, this.now());
    return [...rows].map(({ deletedMs }) => deletedMs);
  }

  #pending(hash: string): CopyRow[] {
    return this.#due().filter((copy) => copy.hash === hash);
  }
}

function nameOf({ address, process }: CopyRow): string {
  if (process !== "") return `${address} (${process})`;
  return hasProcesses(address) ? `${address} (any one process)` : address;
}
