/**
 * Idempotency keys of one ledger, in SQLite: a digest of the body that each key came with first, and what was charged under it. A
 * request that is repeated under its key is computed again, and charged only for what exceeds earlier charges. That holds while the
 * same artifacts, adapters and memories answer it; `state` is their hash. Keys are deleted after `keptMs`, or with their tenant.
 */
import type { Consumption } from "./consumption.ts";

/** How long a key is kept, in milliseconds: 24 hours. */
const keptMs = 24 * 3_600_000;
/** Most keys of one ledger; the oldest are deleted first. A row takes about 200 bytes. */
const maxKeys = 10_000;

export interface Claim {
  /** The time of the first request with the key, in milliseconds since 1970. */
  createdMs: number;
}

/** The use that was charged under a key in its latest state. */
type Charged = Pick<Consumption, "requests" | "promptTokens" | "completionTokens"> & { state: string };

const counts = ["requests", "promptTokens", "completionTokens"] as const;
const nothing = { requests: 0, promptTokens: 0, completionTokens: 0 };

/** The name of a key in a state, for `charge`. */
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

  /**
   * Charges use under a key: returns the part of `consumed` that was not charged before, which the next `write` stores. `name` is
   * `keyIn`'s, or a key alone.
   */
  charge(name: string, consumed: readonly Consumption[]): Consumption[] {
    const [key, state = ""] = name.split(":");
    const [stored] = this.#sql
      .exec<Charged>("SELECT state, requests, promptTokens, completionTokens FROM keys WHERE key = ?", key)
      .toArray();
    const known = this.#unwritten.get(key) ?? stored;
    const charged = known?.state === state ? { ...known } : { ...nothing, state };
    const left = { ...charged };
    const due = consumed.map((one) => {
      const unpaid = { ...one };
      for (const count of counts) {
        const paid = Math.min(left[count], one[count]);
        left[count] -= paid;
        unpaid[count] -= paid;
        charged[count] += unpaid[count];
      }
      return unpaid;
    });
    const counted = due.filter((one) => counts.some((count) => one[count] > 0));
    if (counted.length > 0) this.#unwritten.set(key, charged);
    return counted;
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
}
