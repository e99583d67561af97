/** A ledger's SQLite tables: the quota's counts, and use by day, model and centroid. */
import { limits } from "../../shared/contracts/limits.ts";
import { ChargedKeys } from "./charged-keys.ts";
import { addUse, type Consumption } from "./consumption.ts";
import { Quota, type QuotaChange, type QuotaState, settledMs } from "./quota.ts";

export interface UsageRow extends Consumption {
  /** `2026-11-25`, UTC. */
  day: string;
}

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
`;

/** Model of the row that counts all further use of a day. */
export const otherModels = "(others)";

export class LedgerStore {
  readonly keys: ChargedKeys;
  readonly #storage: DurableObjectStorage;
  readonly #sql: SqlStorage;
  readonly #unwritten = new Map<string, UsageRow>();

  constructor(storage: DurableObjectStorage) {
    this.#storage = storage;
    this.#sql = storage.sql;
    this.#sql.exec(schema);
    this.keys = new ChargedKeys(this.#sql);
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
    // Time since the latest does not count: nothing may have run meanwhile, and what was sent before it may be sent again.
    const idleMs = Math.max(0, nowMs + settledMs - (settled.at(-1)?.[1] ?? Number.POSITIVE_INFINITY));
    return new Quota({
      seconds: seconds.sort(([a], [b]) => a - b),
      open: entries("open"),
      months: entries("months"),
      settled: settled.map(([id, untilMs]) => [id, untilMs + idleMs]),
    });
  }

  /** When everything was erased last, in milliseconds since 1970; null: never. */
  get erasedMs(): number | null {
    const [row] = this.#sql.exec<{ atMs: number }>("SELECT atMs FROM erasures").toArray();
    return row?.atMs ?? null;
  }

  /** Deletes everything, and stores when. */
  erase(atMs: number): void {
    this.#unwritten.clear();
    this.keys.erased();
    this.#storage.transactionSync(() => {
      for (const table of ["counts", "erasures", "usage", "keys"]) this.#sql.exec(`DELETE FROM ${table}`);
      this.#sql.exec("INSERT INTO erasures VALUES (?)", atMs);
    });
  }

  /** Adds use; written with the next changes. */
  use(used: UsageRow): void {
    const model = used.model.slice(0, limits.modelCharacters);
    const row = { ...used, model, centroid: used.centroid?.slice(0, limits.adapterCharacters) ?? null };
    const key = JSON.stringify([row.day, row.model, row.centroid]);
    this.#unwritten.set(key, addUse(row, this.#unwritten.get(key)));
  }

  get hasUnwrittenUse(): boolean {
    return this.#unwritten.size > 0;
  }

  /** Writes changes and use in one transaction. If it throws, use stays pending. */
  write(changes: readonly QuotaChange[]): void {
    this.#storage.transactionSync(() => {
      for (const { kind, key, value } of changes) {
        if (value === undefined) this.#sql.exec("DELETE FROM counts WHERE kind = ? AND key = ?", kind, String(key));
        else this.#sql.exec("INSERT OR REPLACE INTO counts VALUES (?, ?, ?)", kind, String(key), JSON.stringify(value));
      }
      for (const row of this.#unwritten.values()) this.#writeUse(row);
      this.keys.write();
    });
    this.keys.written();
    this.#unwritten.clear();
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

  /** Whether a row exists already, or its day can have one more. */
  #hasRoomFor({ day, model, centroid }: UsageRow): boolean {
    const { isKnown, keys } = this.#sql
      .exec<{ isKnown: number; keys: number }>(
        `SELECT EXISTS (SELECT 1 FROM usage WHERE day = ?1 AND model = ?2 AND centroid = ?3) AS isKnown,
           (SELECT count(*) FROM usage WHERE day = ?1) AS keys`,
        ...[day, model, centroid ?? ""],
      )
      .one();
    return isKnown === 1 || keys < limits.usageRowsPerDay;
  }

  /**
   * Rows from one day to another, inclusive, in order of time; at most one more than `limits.usageRows`. Names are cut here too,
   * so that stored rows cannot make the answer too large.
   */
  usage(from: string, to: string): UsageRow[] {
    const rows = this.#sql.exec<{ [Name in keyof UsageRow]: NonNullable<UsageRow[Name]> }>(
      `SELECT day, substr(model, 1, ${limits.modelCharacters}) AS model,
         substr(centroid, 1, ${limits.adapterCharacters}) AS centroid, sum(requests) AS requests,
         sum(promptTokens) AS promptTokens, sum(completionTokens) AS completionTokens
       FROM usage WHERE day BETWEEN ? AND ? GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 LIMIT ${limits.usageRows + 1}`,
      from,
      to,
    );
    return [...rows].map((row) => ({ ...row, centroid: row.centroid || null }));
  }
}
