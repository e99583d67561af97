/**
 * The Durable Object that stores one tenant's own adapters: records and bytes, which it uploads to any backend that lacks them. Their
 * examples are not stored.
 *
 * It records which backends may have a copy. A deletion is stored until each of them has confirmed it, and repeated by an alarm. One
 * that was removed from the configuration counts as pending, and is called within an hour after it is configured again.
 */
import { DurableObject } from "cloudflare:workers";
import { createSigner } from "../../shared/contracts/call-signature.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { jurisdictionOf } from "../../shared/contracts/tenant-name.ts";
import { settlesWithin } from "../../shared/settles-within.ts";
import { configured } from "../config.ts";
import { addressesIn, hasProcesses } from "../dispatch/addresses.ts";
import { type AdapterCopy, BackendClient } from "../dispatch/client.ts";
import { ensureAlarm } from "../platform/clock.ts";
import type { OwnAdapter } from "./own-adapters.ts";

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

/** In place of a hash: all adapters of the tenant, which is erased. */
const allHashes = "";
/** Pauses between two tries to delete at backends, in milliseconds; each is twice the one before. */
const firstRetryMs = 5000;
const maxRetryMs = 3_600_000;
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
  }

  /** In order of name. */
  list(): OwnAdapter[] {
    return [...this.#sql.exec<RecordRow>("SELECT record FROM adapters ORDER BY name")].map(adapterOf);
  }

  find(name: string): OwnAdapter | null {
    const [row] = this.#sql.exec<RecordRow>("SELECT record FROM adapters WHERE name = ?", name);
    return row ? adapterOf(row) : null;
  }

  /** Whether one of this name could be added. */
  roomFor(name: string): Added {
    if (this.find(name)) return "taken";
    const { count } = this.#sql.exec<{ count: number }>("SELECT count(*) AS count FROM adapters").one();
    return count < limits.adaptersPerTenant ? "added" : "full";
  }

  /** Adds an adapter that a backend has made; one that is not added is deleted there. */
  async add(adapter: OwnAdapter, file: ArrayBuffer, copy: AdapterCopy): Promise<Added> {
    const { name, hash } = adapter;
    const room = this.#isJustErased() ? "erased" : this.roomFor(name);
    if (room === "added") {
      this.#sql.exec("INSERT INTO adapters VALUES (?, ?, ?, ?)", name, hash, JSON.stringify(adapter), file);
      this.#sql.exec("DELETE FROM deletions WHERE hash = ?", hash);
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
    const [row] = this.#sql.exec<{ hash: string }>("SELECT hash FROM adapters WHERE name = ?", name);
    if (!row) return null;
    this.#sql.exec("DELETE FROM adapters WHERE name = ?", name);
    return this.#isUnused(row.hash) ? this.#delete(row.hash, name) : 0;
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
    const all = [...rows].map(({ hash, name, deletedMs }) => ({
      name,
      deletedMs,
      backends: this.#pending(hash).length,
    }));
    return all.filter(({ backends }) => backends > 0);
  }

  /** Erases all adapters of the tenant, here and at the backends of its jurisdiction. */
  async erase(): Promise<ErasedAdapters> {
    const adapters = this.list().length;
    const copies = this.#sql.exec<CopyRow>("SELECT * FROM copies").toArray();
    const sentMs = Math.max(0, ...copies.map((copy) => copy.sentMs));
    this.ctx.storage.transactionSync(() => {
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
    await this.#deleteAtBackends();
    const due = this.#due();
    const isDone = due.length === 0;
    this.#failures = isDone ? 0 : this.#failures + 1;
    const mayConfirm = due.some(({ address }) => this.#clients().has(address));
    const delayMs = mayConfirm ? Math.min(maxRetryMs, firstRetryMs * 2 ** this.#failures) : maxRetryMs;
    if (!isDone) await this.ctx.storage.setAlarm(this.now() + delayMs);
  }

  #isUnused(hash: string): boolean {
    return this.#sql.exec("SELECT 1 FROM adapters WHERE hash = ? LIMIT 1", hash).toArray().length === 0;
  }

  /** Recording a copy again gives it a new id, so that an earlier deletion does not confirm this one. */
  #noteCopy(hash: string, { address, process }: AdapterCopy, sentMs: number): void {
    const values = [hash, address, process ?? "", sentMs];
    this.#sql.exec("INSERT OR REPLACE INTO copies (hash, address, process, sentMs) VALUES (?, ?, ?, ?)", ...values);
  }

  #noteDeletion(hash: string, name: string): void {
    this.#sql.exec("INSERT OR REPLACE INTO deletions VALUES (?, ?, ?)", hash, name, this.now());
  }

  async #delete(hash: string, name: string): Promise<number> {
    this.#noteDeletion(hash, name);
    // Before the first try, so that it is repeated if the object is lost.
    await ensureAlarm(this.ctx.storage, this.now(), { delayMs: firstRetryMs, maxDelayMs: maxRetryMs });
    await settlesWithin(this.#deleteAtBackends(), answerMs);
    return this.#pending(hash).length;
  }

  /** Never rejects. */
  async #deleteAtBackends(): Promise<void> {
    const tries = this.#due().map(async ({ id, hash, address, process, sentMs }) => {
      const client = this.#clients().get(address);
      if (!client) return;
      await client.removeAdapters(this.ctx.id.name!, hash === allHashes ? null : hash, process || null);
      if (this.now() >= sentMs + uploadMs) this.#sql.exec("DELETE FROM copies WHERE id = ?", id);
    });
    await Promise.allSettled(tries);
    const done = "DELETE FROM deletions WHERE hash NOT IN (SELECT hash FROM copies)";
    this.#sql.exec(this.#isJustErased() ? `${done} AND hash <> '${allHashes}'` : done);
  }

  #isJustErased(): boolean {
    const [row] = this.#sql.exec<{ deletedMs: number }>("SELECT deletedMs FROM deletions WHERE hash = ?", allHashes);
    return row !== undefined && Math.abs(this.now() - row.deletedMs) < makingMs;
  }

  /** Copies that are to be deleted, also at backends that are not configured now. */
  #due(): CopyRow[] {
    return this.#sql.exec<CopyRow>("SELECT * FROM copies WHERE hash IN (SELECT hash FROM deletions)").toArray();
  }

  #pending(hash: string): CopyRow[] {
    return this.#due().filter((copy) => copy.hash === hash);
  }
}

type RecordRow = { record: string };

function adapterOf({ record }: RecordRow): OwnAdapter {
  return JSON.parse(record) as OwnAdapter;
}

function nameOf({ address, process }: CopyRow): string {
  if (process !== "") return `${address} (${process})`;
  return hasProcesses(address) ? `${address} (any one process)` : address;
}
