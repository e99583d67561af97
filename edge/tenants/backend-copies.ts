/**
 * Which backends may have copies of a tenant's adapters and memories. An alarm repeats a stored deletion until all these backends have
 * confirmed the deletion. A backend that left the configuration is called within an hour after its return.
 */
import { settlesWithin } from "../../shared/settles-within.ts";
import { hasProcesses } from "../dispatch/addresses.ts";
import type { AdapterCopy } from "../dispatch/client.ts";
import { ensureAlarm } from "../platform/clock.ts";
import { memoryPrefix } from "./adapter-records.ts";
import type { TenantContext } from "./tenant-context.ts";

const schema = `
  CREATE TABLE IF NOT EXISTS copies (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hash TEXT NOT NULL, address TEXT NOT NULL, process TEXT NOT NULL,
    sentMs INTEGER NOT NULL, UNIQUE (hash, address, process)
  );
  CREATE TABLE IF NOT EXISTS deletions (hash TEXT PRIMARY KEY, name TEXT NOT NULL, deletedMs INTEGER NOT NULL) WITHOUT ROWID;
`;

/** Replaces the hash when all copies of an erased tenant are deleted. */
const allHashes = "";
/** First and longest pause before a deletion is tried again, in milliseconds. Each pause doubles the previous one. */
export const firstRetryMs = 5000;
export const maxRetryMs = 3_600_000;
/** Timeout of a request's wait for backends. The request then reports the deletion as pending. */
const answerMs = 3000;
/** Longest duration of an upload. A deletion that may have run before the end of an upload is repeated. */
const uploadMs = 10_000;
/** Time after an erasure in which no adapter is added, because a backend may have begun to make it before the erasure. */
const makingMs = 300_000;

export interface PendingDeletion {
  name: string;
  deletedMs: number;
  backends: number;
}

export interface ErasedCopies {
  confirmed: string[];
  pending: string[];
  /** Addresses where only some of several processes were called. */
  partlyAsked: string[];
}

interface CopyRow extends Record<string, SqlStorageValue> {
  id: number;
  hash: string;
  address: string;
  process: string;
  /** When the uploaded bytes were read, in milliseconds since 1970; 0: nothing was uploaded. */
  sentMs: number;
}

export interface TenantParts extends TenantContext {
  copies: BackendCopies;
}

/** A copy's name is the hash of fitted parts or, after `memoryPrefix`, the hash of a memory. */
export class BackendCopies {
  readonly #context: TenantContext;
  readonly #sql: SqlStorage;

  constructor(context: TenantContext) {
    this.#context = context;
    this.#sql = context.storage.sql;
    this.#sql.exec(schema);
  }

  /** Records that a backend may have a copy. The new id protects the record from a running deletion, which has the old id. */
  note(hash: string, { address, process }: AdapterCopy, sentMs: number): void {
    const values = [hash, address, process ?? "", sentMs];
    this.#sql.exec("INSERT OR REPLACE INTO copies (hash, address, process, sentMs) VALUES (?, ?, ?, ?)", ...values);
  }

  /** Cancels the deletion of copies with this name, because an adapter uses them. */
  keep(hash: string): void {
    this.#sql.exec("DELETE FROM deletions WHERE hash = ?", hash);
  }

  pendingDeletions(): PendingDeletion[] {
    const rows = this.#sql.exec<CopyRow & { name: string; deletedMs: number }>(
      "SELECT * FROM deletions JOIN copies USING (hash) WHERE hash <> ? AND deletedMs <= ? ORDER BY deletedMs",
      ...[allHashes, this.#context.now()],
    );
    const byName = Map.groupBy(rows, ({ name }) => name);
    return Array.from(byName, ([name, copies]) => {
      return { name, deletedMs: copies[0].deletedMs, backends: new Set(copies.map(nameOf)).size };
    });
  }

  /** Resolves to the number of backends that have not confirmed the deletion yet. */
  async deleteNow(hashes: readonly string[], name: string): Promise<number> {
    for (const hash of hashes) this.#noteDeletion(hash, name);
    await this.#deleteNoted();
    return this.#pending(hashes).length;
  }

  async deleteUnused(hash: string, name: string): Promise<void> {
    if (this.#context.records.isUnused(hash)) await this.deleteNow([hash], name);
  }

  laterOf(name: string): string[] {
    const select = "SELECT hash FROM deletions WHERE name = ? AND deletedMs > ?";
    return [...this.#sql.exec<{ hash: string }>(select, name, this.#context.now())].map(({ hash }) => hash);
  }

  async retire(hash: string, name: string, delayMs: number): Promise<void> {
    this.#noteDeletion(hash, name, this.#context.now() + delayMs);
    await ensureAlarm(this.#context.storage, this.#context.now(), { delayMs, maxDelayMs: delayMs });
  }

  /** Deletes all copies of the tenant. `forget` deletes the object's own data, in the transaction that stores this deletion. */
  async erase(forget: () => void): Promise<ErasedCopies> {
    const copies = this.#sql.exec<CopyRow>("SELECT * FROM copies").toArray();
    const sentMs = Math.max(0, ...copies.map((copy) => copy.sentMs));
    this.#context.storage.transactionSync(() => {
      forget();
      for (const table of ["copies", "deletions"]) this.#sql.exec(`DELETE FROM ${table}`);
      for (const { address, process } of copies) this.note(allHashes, { address, process: process || null }, sentMs);
      // Backends without a known copy are called, too, because a failed request may have left a copy there.
      const known = new Set(copies.map(({ address }) => address));
      for (const address of this.#context.clients().keys()) {
        if (!known.has(address)) this.note(allHashes, { address, process: null }, 0);
      }
      this.#noteDeletion(allHashes, "");
    });
    const called = this.#pending([allHashes]);
    const partlyAsked = [...new Set(this.#due().flatMap(({ address }) => (hasProcesses(address) ? address : [])))];
    await this.#deleteNoted();
    const pending = this.#pending([allHashes]);
    return { confirmed: called.filter((name) => !pending.includes(name)), pending, partlyAsked };
  }

  /** Calls the backends of every deletion that is due. Never rejects. */
  async deleteDue(): Promise<void> {
    const due = "SELECT hash FROM deletions WHERE deletedMs <= ?";
    for (const { hash } of this.#sql.exec<{ hash: string }>(due, this.#context.now()).toArray()) {
      this.#context.sealed.delete(hash);
    }
    const tries = this.#due().map(async ({ id, hash, address, process, sentMs }) => {
      const client = this.#context.clients().get(address);
      if (!client) return;
      const { tenant } = this.#context;
      const ofMemory = hash.startsWith(memoryPrefix) ? hash.slice(memoryPrefix.length) : null;
      if (ofMemory !== null) await client.remove("memories", tenant, ofMemory, process || null);
      else await client.remove("adapters", tenant, hash === allHashes ? null : hash, process || null);
      if (hash === allHashes) await client.remove("memories", tenant, null, process || null);
      if (this.#context.now() >= sentMs + uploadMs) this.#sql.exec("DELETE FROM copies WHERE id = ?", id);
    });
    await Promise.allSettled(tries);
    const done = "DELETE FROM deletions WHERE hash NOT IN (SELECT hash FROM copies) AND deletedMs <= ?";
    this.#sql.exec(this.isJustErased() ? `${done} AND hash <> '${allHashes}'` : done, this.#context.now());
  }

  /** Delays in milliseconds after which the alarm must run again. `retryMs`: the pause after a failure. */
  retryDelays(retryMs: number): number[] {
    const due = this.#due();
    const mayConfirm = due.some(({ address }) => this.#context.clients().has(address));
    const select = "SELECT deletedMs FROM deletions WHERE deletedMs > ?";
    const later = this.#sql.exec<{ deletedMs: number }>(select, this.#context.now());
    return [
      ...(mayConfirm ? [retryMs] : []),
      ...(due.length > 0 ? [maxRetryMs] : []),
      ...[...later].map(({ deletedMs }) => Math.max(0, deletedMs - this.#context.now())),
    ];
  }

  get isAnyDue(): boolean {
    return this.#due().length > 0;
  }

  isJustErased(): boolean {
    const [row] = this.#sql.exec<{ deletedMs: number }>("SELECT deletedMs FROM deletions WHERE hash = ?", allHashes);
    return row !== undefined && Math.abs(this.#context.now() - row.deletedMs) < makingMs;
  }

  #noteDeletion(hash: string, name: string, atMs = this.#context.now()): void {
    this.#sql.exec("INSERT OR REPLACE INTO deletions VALUES (?, ?, ?)", hash, name, atMs);
  }

  async #deleteNoted(): Promise<void> {
    // The alarm is set first, so that it repeats the deletion if the object is lost.
    const times = { delayMs: firstRetryMs, maxDelayMs: maxRetryMs };
    await ensureAlarm(this.#context.storage, this.#context.now(), times);
    await settlesWithin(this.deleteDue(), answerMs);
  }

  /** Includes copies at backends that are no longer configured. */
  #due(): CopyRow[] {
    const select = "SELECT * FROM copies WHERE hash IN (SELECT hash FROM deletions WHERE deletedMs <= ?)";
    return this.#sql.exec<CopyRow>(select, this.#context.now()).toArray();
  }

  #pending(hashes: readonly string[]): string[] {
    return [...new Set(this.#due().flatMap((copy) => (hashes.includes(copy.hash) ? nameOf(copy) : [])))];
  }
}

function nameOf({ address, process }: CopyRow): string {
  if (process !== "") return `${address} (${process})`;
  return hasProcesses(address) ? `${address} (any one process)` : address;
}
