/**
 * Which backends may have a copy of what a tenant's Durable Object stores. A deletion is stored until each of them has confirmed it, and
 * repeated by the object's alarm. One that was removed from the configuration counts as pending, and is called within an hour after it
 * is configured again.
 */
import { settlesWithin } from "../../shared/settles-within.ts";
import { hasProcesses } from "../dispatch/addresses.ts";
import type { AdapterCopy, BackendClient } from "../dispatch/client.ts";
import { ensureAlarm } from "../platform/clock.ts";

const schema = `
  CREATE TABLE IF NOT EXISTS copies (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hash TEXT NOT NULL, address TEXT NOT NULL, process TEXT NOT NULL,
    sentMs INTEGER NOT NULL, UNIQUE (hash, address, process)
  );
  CREATE TABLE IF NOT EXISTS deletions (hash TEXT PRIMARY KEY, name TEXT NOT NULL, deletedMs INTEGER NOT NULL) WITHOUT ROWID;
`;

/** In place of a hash: all adapters and memories of the tenant, which is erased. */
const allHashes = "";
/** Before the hash of a memory. */
export const memoryPrefix = "memory:";
/** Pauses between two tries to delete at backends, in milliseconds; each is twice the one before. */
export const firstRetryMs = 5000;
export const maxRetryMs = 3_600_000;
/** Timeout after which a deletion is answered as pending, in milliseconds. */
const answerMs = 3000;
/** An upload may arrive for so long after its bytes were read, so an earlier deletion is repeated. */
const uploadMs = 10_000;
/** For so long after an erasure, no adapter is added: it may have been begun before. */
const makingMs = 300_000;

/** A deletion that backends have not confirmed. */
export interface PendingDeletion {
  name: string;
  /** Milliseconds since 1970. */
  deletedMs: number;
  /** Number of backends that have not confirmed it. */
  backends: number;
}

/** The backends of an erasure. */
export interface ErasedCopies {
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

interface CopiesParts {
  tenant: string;
  storage: DurableObjectStorage;
  now(): number;
  /** By address, of the tenant's jurisdiction. */
  clients(): ReadonlyMap<string, BackendClient>;
  /** Deletes what is stored of fitted parts or a memory. */
  deleteStored(hash: string): void;
}

export class BackendCopies {
  readonly #parts: CopiesParts;
  readonly #sql: SqlStorage;

  constructor(parts: CopiesParts) {
    this.#parts = parts;
    this.#sql = parts.storage.sql;
    this.#sql.exec(schema);
  }

  /** Recording a copy again gives it a new id, so that an earlier deletion does not confirm this one. */
  note(hash: string, { address, process }: AdapterCopy, sentMs: number): void {
    const values = [hash, address, process ?? "", sentMs];
    this.#sql.exec("INSERT OR REPLACE INTO copies (hash, address, process, sentMs) VALUES (?, ?, ?, ?)", ...values);
  }

  /** This hash is wanted again. */
  keep(hash: string): void {
    this.#sql.exec("DELETE FROM deletions WHERE hash = ?", hash);
  }

  pendingDeletions(): PendingDeletion[] {
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

  /** Deletes these hashes of an adapter. Returns how many backends have not confirmed it. */
  async deleteNow(hashes: readonly string[], name: string): Promise<number> {
    for (const hash of hashes) this.#noteDeletion(hash, name);
    await this.#deleteNoted();
    return new Set(hashes.flatMap((hash) => this.#pending(hash).map(nameOf))).size;
  }

  /** Hashes of an adapter that are to be deleted later. */
  laterOf(name: string): string[] {
    const select = "SELECT hash FROM deletions WHERE name = ? AND deletedMs > ?";
    return [...this.#sql.exec<{ hash: string }>(select, name, this.#parts.now())].map(({ hash }) => hash);
  }

  /** Deletes what no adapter has any more, after `delayMs`. */
  async retire(hash: string, name: string, delayMs: number): Promise<void> {
    this.#noteDeletion(hash, name, this.#parts.now() + delayMs);
    if (delayMs === 0) await this.#deleteNoted();
    else await ensureAlarm(this.#parts.storage, this.#parts.now(), { delayMs, maxDelayMs: delayMs });
  }

  /** Deletes everything; `forget` is called in the transaction that stores this. */
  async erase(forget: () => void): Promise<ErasedCopies> {
    const copies = this.#sql.exec<CopyRow>("SELECT * FROM copies").toArray();
    const sentMs = Math.max(0, ...copies.map((copy) => copy.sentMs));
    this.#parts.storage.transactionSync(() => {
      forget();
      for (const table of ["copies", "deletions"]) this.#sql.exec(`DELETE FROM ${table}`);
      for (const { address, process } of copies) this.note(allHashes, { address, process: process || null }, sentMs);
      // Also where no copy is known: a request that failed may have made one.
      const known = new Set(copies.map(({ address }) => address));
      for (const address of this.#parts.clients().keys()) {
        if (!known.has(address)) this.note(allHashes, { address, process: null }, 0);
      }
      this.#noteDeletion(allHashes, "");
    });
    const copiesToDelete = this.#pending(allHashes);
    const called = copiesToDelete.map(nameOf);
    const partlyAsked = [...new Set(copiesToDelete.map(({ address }) => address).filter(hasProcesses))];
    await this.#deleteNoted();
    const pending = this.#pending(allHashes).map(nameOf);
    return { confirmed: called.filter((name) => !pending.includes(name)), pending, partlyAsked };
  }

  /** Everything that is due is tried once at the backends. Never rejects. */
  async deleteDue(): Promise<void> {
    for (const hash of this.#dueHashes()) this.#parts.deleteStored(hash.replace(memoryPrefix, ""));
    const tries = this.#due().map(async ({ id, hash, address, process, sentMs }) => {
      const client = this.#parts.clients().get(address);
      if (!client) return;
      const { tenant } = this.#parts;
      const ofMemory = hash.startsWith(memoryPrefix) ? hash.slice(memoryPrefix.length) : null;
      if (ofMemory !== null) await client.remove("memories", tenant, ofMemory, process || null);
      else await client.remove("adapters", tenant, hash === allHashes ? null : hash, process || null);
      if (hash === allHashes) await client.remove("memories", tenant, null, process || null);
      if (this.#parts.now() >= sentMs + uploadMs) this.#sql.exec("DELETE FROM copies WHERE id = ?", id);
    });
    await Promise.allSettled(tries);
    const done = "DELETE FROM deletions WHERE hash NOT IN (SELECT hash FROM copies) AND deletedMs <= ?";
    this.#sql.exec(this.isJustErased() ? `${done} AND hash <> '${allHashes}'` : done, this.#parts.now());
  }

  /** When the alarm is to try again, in milliseconds from now; `retryMs`: the pause after a failure. */
  retryDelays(retryMs: number): number[] {
    const due = this.#due();
    const mayConfirm = due.some(({ address }) => this.#parts.clients().has(address));
    const select = "SELECT deletedMs FROM deletions WHERE deletedMs > ?";
    const later = this.#sql.exec<{ deletedMs: number }>(select, this.#parts.now());
    return [
      ...(mayConfirm ? [retryMs] : []),
      ...(due.length > 0 ? [maxRetryMs] : []),
      ...[...later].map(({ deletedMs }) => Math.max(0, deletedMs - this.#parts.now())),
    ];
  }

  get isAnyDue(): boolean {
    return this.#due().length > 0;
  }

  isJustErased(): boolean {
    const [row] = this.#sql.exec<{ deletedMs: number }>("SELECT deletedMs FROM deletions WHERE hash = ?", allHashes);
    return row !== undefined && Math.abs(this.#parts.now() - row.deletedMs) < makingMs;
  }

  #noteDeletion(hash: string, name: string, atMs = this.#parts.now()): void {
    this.#sql.exec("INSERT OR REPLACE INTO deletions VALUES (?, ?, ?)", hash, name, atMs);
  }

  async #deleteNoted(): Promise<void> {
    // Before the first try, so that it is repeated if the object is lost.
    const times = { delayMs: firstRetryMs, maxDelayMs: maxRetryMs };
    await ensureAlarm(this.#parts.storage, this.#parts.now(), times);
    await settlesWithin(this.deleteDue(), answerMs);
  }

  /** Copies that are to be deleted now, also at backends that are not configured. */
  #due(): CopyRow[] {
    const select = "SELECT * FROM copies WHERE hash IN (SELECT hash FROM deletions WHERE deletedMs <= ?)";
    return this.#sql.exec<CopyRow>(select, this.#parts.now()).toArray();
  }

  /** Hashes that are to be deleted now. */
  #dueHashes(): string[] {
    const rows = this.#sql.exec<{ hash: string }>("SELECT hash FROM deletions WHERE deletedMs <= ?", this.#parts.now());
    return [...rows].map(({ hash }) => hash);
  }

  #pending(hash: string): CopyRow[] {
    return this.#due().filter((copy) => copy.hash === hash);
  }
}

function nameOf({ address, process }: CopyRow): string {
  if (process !== "") return `${address} (${process})`;
  return hasProcesses(address) ? `${address} (any one process)` : address;
}
