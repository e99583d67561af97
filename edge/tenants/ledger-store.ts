/** A ledger's tables: counts for limits, use by day, model and centroid, and idempotency keys with their charges. */
import { limits } from "../../shared/contracts/limits.ts";
import { addUse, type Consumption } from "./consumption.ts";
import { Quota, type QuotaChange, type QuotaState, settledMs } from "./quota.ts";

export interface UsageRow extends Consumption {
  /** Day in UTC, such as `2026-11-25`. */
  day: string;
}

export interface Claim {
  /** Time of the key's first request, in milliseconds since 1970. */
  createdMs: number;
}

/** The charged use of an idempotency key in its latest `state` (`keyIn`). */
type Charged = Pick<Consumption, "requests" | "promptTokens" | "completionTokens"> & { state: string };

const schema = `
  CREATE TABLE IF NOT EXISTS counts (
    kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, key)
  ) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS erasures (atMs REAL NOT NULL);
  CREATE TABLE IF NOT EXISTS usage (
    day TEXT NOT NULL, model TEXT NOT NULL, centroid TEXT NOT NULL,
    requests INTEGER NOT NULL, promptTokens INTEGER NOT NULL, completionTokens INTEGER NOT NULL,
    PRIMARY KEY (day, model, centroid)
  ) WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS keys (
    key TEXT PRIMARY KEY, digest TEXT NOT NULL, createdMs REAL NOT NULL, state TEXT NOT NULL DEFAULT '',
    requests INTEGER NOT NULL DEFAULT 0, promptTokens INTEGER NOT NULL DEFAULT 0, completionTokens INTEGER NOT NULL DEFAULT 0
  ) WITHOUT ROWID;
  CREATE INDEX IF NOT EXISTS keysByAge ON keys (createdMs);
`;

/** `model` of the row that sums a day's remaining use once the day has the maximum of rows. */
export const otherModels = "(others)";
const keptMs = 24 * 3_600_000;
/** Maximum of stored keys; the oldest is deleted first. A stored key takes about 200 bytes. */
const maxKeys = 10_000;
const counts = ["requests", "promptTokens", "completionTokens"] as const;

/** The name under which `charge` charges a key. `state`: hash of the artifacts, adapters and memories that answer. */
export function keyIn(key: string, state: string): string {
  return `${key}:${state}`;
}

export class LedgerStore {
  readonly #storage: DurableObjectStorage;
  readonly #sql: SqlStorage;
  readonly #use = new Map<string, UsageRow>();
  readonly #charges = new Map<string, Charged>();
  #keys: number;

  constructor(storage: DurableObjectStorage) {
    this.#storage = storage;
    this.#sql = storage.sql;
    this.#sql.exec(schema);
    this.#keys = this.#sql.exec<{ count: number }>("SELECT count(*) AS count FROM keys").one().count;
  }

  quota(nowMs: number): Quota {
    const rows = this.#sql.exec<{ kind: string; key: string; value: string }>("SELECT * FROM counts").toArray();
    const entries = <Value>(kind: keyof QuotaState) =>
      rows
        .filter((row) => row.kind === kind)
        .map(({ key, value }): [string, Value] => [key, JSON.parse(value) as Value]);
    type Second = QuotaState["seconds"][number];
    const seconds = entries<Second[1]>("seconds").map(([second, counted]): Second => [Number(second), counted]);
    const settled = entries<number>("settled").sort(([, a], [, b]) => a - b);
    // Settled ids do not age while no request is settled, because all settlements may be failing.
    const idleMs = Math.max(0, nowMs + settledMs - (settled.at(-1)?.[1] ?? Number.POSITIVE_INFINITY));
    return new Quota({
      seconds: seconds.sort(([a], [b]) => a - b),
      open: entries("open"),
      months: entries("months"),
      settled: settled.map(([id, untilMs]) => [id, untilMs + idleMs]),
    });
  }

  /** Milliseconds since 1970; null without an erasure. */
  get erasedMs(): number | null {
    const [row] = this.#sql.exec<{ atMs: number }>("SELECT atMs FROM erasures").toArray();
    return row?.atMs ?? null;
  }

  erase(atMs: number): void {
    this.#use.clear();
    this.#charges.clear();
    this.#keys = 0;
    this.#storage.transactionSync(() => {
      for (const table of ["counts", "erasures", "usage", "keys"]) this.#sql.exec(`DELETE FROM ${table}`);
      this.#sql.exec("INSERT INTO erasures VALUES (?)", atMs);
    });
  }

  /** Claims an idempotency key for the digest of a body; null if the key has another digest. */
  claim(key: string, digest: string, nowMs: number): Claim | null {
    this.#keys -= this.#sql.exec("DELETE FROM keys WHERE createdMs < ? RETURNING key", nowMs - keptMs).toArray().length;
    const [known] = this.#sql
      .exec<{ digest: string; createdMs: number }>("SELECT digest, createdMs FROM keys WHERE key = ?", key)
      .toArray();
    if (known) return known.digest === digest ? { createdMs: known.createdMs } : null;
    this.#sql.exec("INSERT INTO keys (key, digest, createdMs) VALUES (?, ?, ?)", key, digest, nowMs);
    if (++this.#keys > maxKeys) {
      this.#sql.exec("DELETE FROM keys WHERE key = (SELECT key FROM keys ORDER BY createdMs LIMIT 1)");
      this.#keys--;
    }
    return { createdMs: nowMs };
  }

  /** Charges only what exceeds the key's earlier charges in the same state, and returns this part. `name`: key or `keyIn(…)`. */
  charge(name: string, consumed: readonly Consumption[]): Consumption[] {
    const [key, state = ""] = name.split(":");
    const [stored] = this.#sql
      .exec<Charged>("SELECT state, requests, promptTokens, completionTokens FROM keys WHERE key = ?", key)
      .toArray();
    const known = this.#charges.get(key) ?? stored;
    const charged = { state, requests: 0, promptTokens: 0, completionTokens: 0 };
    if (known?.state === state) Object.assign(charged, known);
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
    if (counted.length > 0) this.#charges.set(key, charged);
    return counted;
  }

  use(used: UsageRow): void {
    const model = used.model.slice(0, limits.modelCharacters);
    const row = { ...used, model, centroid: used.centroid?.slice(0, limits.adapterCharacters) ?? null };
    const key = JSON.stringify([row.day, row.model, row.centroid]);
    this.#use.set(key, addUse(row, this.#use.get(key)));
  }

  get hasUnwrittenUse(): boolean {
    return this.#use.size > 0;
  }

  /** One transaction. If it throws, use and charges stay for the next call. */
  write(changes: readonly QuotaChange[]): void {
    this.#storage.transactionSync(() => {
      for (const { kind, key, value } of changes) {
        if (value === undefined) this.#sql.exec("DELETE FROM counts WHERE kind = ? AND key = ?", kind, String(key));
        else this.#sql.exec("INSERT OR REPLACE INTO counts VALUES (?, ?, ?)", kind, String(key), JSON.stringify(value));
      }
      for (const row of this.#use.values()) this.#writeUse(row);
      for (const [key, { state, requests, promptTokens, completionTokens }] of this.#charges) {
        this.#sql.exec(
          "UPDATE keys SET state = ?, requests = ?, promptTokens = ?, completionTokens = ? WHERE key = ?",
          ...[state, requests, promptTokens, completionTokens, key],
        );
      }
    });
    this.#use.clear();
    this.#charges.clear();
  }

  #writeUse(row: UsageRow): void {
    const { day, model, centroid, requests, promptTokens, completionTokens } = this.#hasRoomFor(row)
      ? row
      : { ...row, model: otherModels, centroid: null };
    this.#sql.exec(
      `INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,
       promptTokens = promptTokens + excluded.promptTokens, completionTokens = completionTokens + excluded.completionTokens`,
      ...[day, model, centroid ?? "", requests, promptTokens, completionTokens],
    );
  }

  #hasRoomFor({ day, model, centroid }: UsageRow): boolean {
    const { isKnown, rows } = this.#sql
      .exec<{ isKnown: number; rows: number }>(
        `SELECT EXISTS (SELECT 1 FROM usage WHERE day = ?1 AND model = ?2 AND centroid = ?3) AS isKnown,
           (SELECT count(*) FROM usage WHERE day = ?1) AS rows`,
        ...[day, model, centroid ?? ""],
      )
      .one();
    return isKnown === 1 || rows < limits.usageRowsPerDay;
  }

  /** `from` and `to` are days, both inclusive. Returns at most one row more than `limits.usageRows`. */
  usage(from: string, to: string): UsageRow[] {
    const rows = this.#sql.exec<{ [Name in keyof UsageRow]: NonNullable<UsageRow[Name]> }>(
      `SELECT * FROM usage WHERE day BETWEEN ? AND ? ORDER BY day, model, centroid LIMIT ${limits.usageRows + 1}`,
      from,
      to,
    );
    return [...rows].map((row) => ({ ...row, centroid: row.centroid || null }));
  }
}
