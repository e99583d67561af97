/**
 * Idempotency keys of one ledger, in SQLite: the body that each came with first, and what was charged under it. A request that is
 * repeated under its key is computed again and charged only for what exceeds the charges before. Keys are forgotten after `keptMs`,
 * and with the tenant.
 */
import type { Consumption } from "./consumption.ts";

const keptMs = 24 * 3_600_000;
/** Keys that one ledger keeps; the oldest are forgotten first. A row takes about 200 bytes. */
const maxKeys = 10_000;

export interface Claim {
  /** The time of the first request with the key, in milliseconds since 1970. */
  createdMs: number;
}

type Charged = Pick<Consumption, "requests" | "promptTokens" | "completionTokens">;

const counts = ["requests", "promptTokens", "completionTokens"] as const;
const nothing: Charged = { requests: 0, promptTokens: 0, completionTokens: 0 };

export class ChargedKeys {
  readonly #sql: SqlStorage;
  /** Charges that the next `write` stores. */
  readonly #unwritten = new Map<string, Charged>();

  constructor(sql: SqlStorage) {
    this.#sql = sql;
    sql.exec(`CREATE TABLE IF NOT EXISTS keys (
      key TEXT PRIMARY KEY, digest TEXT NOT NULL, createdMs REAL NOT NULL,
      requests INTEGER NOT NULL DEFAULT 0, promptTokens INTEGER NOT NULL DEFAULT 0, completionTokens INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS keysByAge ON keys (createdMs)`);
  }

  /** Claims a key for the body with this digest. null if the key came with another body before. */
  claim(key: string, digest: string, nowMs: number): Claim | null {
    this.#sql.exec("DELETE FROM keys WHERE createdMs < ?", nowMs - keptMs);
    const [known] = this.#sql
      .exec<{ digest: string; createdMs: number }>("SELECT digest, createdMs FROM keys WHERE key = ?", key)
      .toArray();
    if (known) return known.digest === digest ? { createdMs: known.createdMs } : null;
    this.#sql.exec("INSERT INTO keys (key, digest, createdMs) VALUES (?, ?, ?)", key, digest, nowMs);
    this.#sql.exec(
      "DELETE FROM keys WHERE key IN (SELECT key FROM keys ORDER BY createdMs DESC LIMIT -1 OFFSET ?)",
      maxKeys,
    );
    return { createdMs: nowMs };
  }

  /** The part of `consumed` that was not charged under the key before. */
  due(key: string, consumed: readonly Consumption[]): Consumption[] {
    const left = { ...this.#charged(key) };
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
  charge(key: string, due: readonly Consumption[]): void {
    const charged = { ...this.#charged(key) };
    for (const one of due) for (const count of counts) charged[count] += one[count];
    this.#unwritten.set(key, charged);
  }

  /** Stores charges; called in the transaction that stores the use. The caller calls `written` once that is committed. */
  write(): void {
    for (const [key, { requests, promptTokens, completionTokens }] of this.#unwritten) {
      this.#sql.exec(
        "UPDATE keys SET requests = ?, promptTokens = ?, completionTokens = ? WHERE key = ?",
        ...[requests, promptTokens, completionTokens, key],
      );
    }
  }

  written(): void {
    this.#unwritten.clear();
  }

  #charged(key: string): Charged {
    const unwritten = this.#unwritten.get(key);
    if (unwritten) return unwritten;
    const [stored] = this.#sql
      .exec<{ [Count in keyof Charged]: number }>(
        "SELECT requests, promptTokens, completionTokens FROM keys WHERE key = ?",
        key,
      )
      .toArray();
    return stored ?? nothing;
  }
}
