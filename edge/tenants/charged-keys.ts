/**
 * Idempotency keys of one ledger, in SQLite: the body that each came with first, and what was charged under it. A request that is
 * repeated under its key is computed again and charged only for what exceeds the charges before, as long as the same artifacts,
 * adapters and memories answer it: their `state`. After `keptMs` the next claim deletes a key, and erasing the tenant does.
 */
import type { Consumption } from "./consumption.ts";

const keptMs = 24 * 3_600_000;
/** Keys that one ledger keeps; the oldest are forgotten first. A row takes about 200 bytes. */
const maxKeys = 10_000;

export interface Claim {
  /** The time of the first request with the key, in milliseconds since 1970. */
  createdMs: number;
}

/** Use that was charged, of one state. */
type Charged = Pick<Consumption, "requests" | "promptTokens" | "completionTokens"> & { state: string };

const counts = ["requests", "promptTokens", "completionTokens"] as const;
const nothing = { requests: 0, promptTokens: 0, completionTokens: 0 };

/** A key with the state that answers its request. */
export function keyIn(key: string, state: string): string {
  return `${key}:${state}`;
}

export class ChargedKeys {
  readonly #sql: SqlStorage;
  /** Charges that the next `write` stores. */
  readonly #unwritten = new Map<string, Charged>();
  #count: number;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
    sql.exec(`CREATE TABLE IF NOT EXISTS keys (
      key TEXT PRIMARY KEY, digest TEXT NOT NULL, createdMs REAL NOT NULL, state TEXT NOT NULL DEFAULT '',
      requests INTEGER NOT NULL DEFAULT 0, promptTokens INTEGER NOT NULL DEFAULT 0, completionTokens INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS keysByAge ON keys (createdMs)`);
    this.#count = sql.exec<{ count: number }>("SELECT count(*) AS count FROM keys").one().count;
  }

  /** Claims a key for the body with this digest. null if the key came with another body before. */
  claim(key: string, digest: string, nowMs: number): Claim | null {
    this.#count -= this.#sql
      .exec("DELETE FROM keys WHERE createdMs < ? RETURNING key", nowMs - keptMs)
      .toArray().length;
    const [known] = this.#sql
      .exec<{ digest: string; createdMs: number }>("SELECT digest, createdMs FROM keys WHERE key = ?", key)
      .toArray();
    if (known) return known.digest === digest ? { createdMs: known.createdMs } : null;
    this.#sql.exec("INSERT INTO keys (key, digest, createdMs) VALUES (?, ?, ?)", key, digest, nowMs);
    if (++this.#count > maxKeys) {
      this.#sql.exec("DELETE FROM keys WHERE key = (SELECT key FROM keys ORDER BY createdMs LIMIT 1)");
      this.#count--;
    }
    return { createdMs: nowMs };
  }

  /** The part of `consumed` that was not charged before under the key, in its state: `name` is `keyIn`'s, or a key alone. */
  due(name: string, consumed: readonly Consumption[]): Consumption[] {
    const left = { ...this.#charged(name) };
    return consumed
      .map((one) => {
        const due = { ...one };
        for (const count of counts) {
          const paid = Math.min(left[count], one[count]);
          left[count] -= paid;
          due[count] -= paid;
        }
        return due;
      })
      .filter((one) => counts.some((count) => one[count] > 0));
  }

  /** Records that `due` is charged under the key; stored by the next `write`. */
  charge(name: string, due: readonly Consumption[]): void {
    const charged = { ...this.#charged(name) };
    for (const one of due) for (const count of counts) charged[count] += one[count];
    this.#unwritten.set(partsOf(name)[0], charged);
  }

  /** Stores charges; called in the transaction that stores the use. The caller calls `written` once that is committed. */
  write(): void {
    for (const [key, { state, requests, promptTokens, completionTokens }] of this.#unwritten) {
      this.#sql.exec(
        "UPDATE keys SET state = ?, requests = ?, promptTokens = ?, completionTokens = ? WHERE key = ?",
        ...[state, requests, promptTokens, completionTokens, key],
      );
    }
  }

  written(): void {
    this.#unwritten.clear();
  }

  /** The table's rows were deleted. */
  erased(): void {
    this.#unwritten.clear();
    this.#count = 0;
  }

  #charged(name: string): Charged {
    const [key, state] = partsOf(name);
    const [stored] = this.#sql
      .exec<Charged>("SELECT state, requests, promptTokens, completionTokens FROM keys WHERE key = ?", key)
      .toArray();
    const known = this.#unwritten.get(key) ?? stored;
    return known?.state === state ? known : { ...nothing, state };
  }
}

function partsOf(name: string): [key: string, state: string] {
  const [key, state = ""] = name.split(":");
  return [key, state];
}
