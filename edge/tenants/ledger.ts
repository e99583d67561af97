/**
 * The Durable Object of one tenant: what it has used, and whether its next request may run. Quota decides, this stores.
 *
 * Everything is decided in memory, and written together with what else comes within `commitMs`: a commit waits for a disk,
 * whatever is in it, and so might all who come after it. An object that is lost before forgets reservations; of what was
 * used nobody is told that it is counted before it is written. No timer is set but that write's.
 */
import { DurableObject } from "cloudflare:workers";
import { limits } from "../../shared/contracts/limits.ts";
import type { TenantLimits } from "../../shared/contracts/tenants.ts";
import { type Consumption, inAll } from "./consumption.ts";
import { type Decision, Quota, type QuotaState } from "./quota.ts";

export interface UsageRow extends Consumption {
  /** `2026-11-25`, UTC. */
  day: string;
}

const schema = `
  CREATE TABLE IF NOT EXISTS quota (one INTEGER PRIMARY KEY CHECK (one = 1), state TEXT NOT NULL);
  CREATE TABLE IF NOT EXISTS usage (
    day TEXT NOT NULL, model TEXT NOT NULL, centroid TEXT NOT NULL,
    requests INTEGER NOT NULL, promptTokens INTEGER NOT NULL, completionTokens INTEGER NOT NULL,
    PRIMARY KEY (day, model, centroid)
  ) WITHOUT ROWID;
`;

const commitMs = 20;
/**
 * Models and centroids that a day's use is told apart by: twice as many as the centroids of a large set, and own adapters.
 * A tenant can name adapters without end, and a ledger keeps its rows for good.
 */
export const usageKeysPerDay = 1024;
/** The model of the row that counts all further ones of a day. */
export const otherModels = "(others)";

export class Ledger extends DurableObject<Env> {
  /** A clock in milliseconds since 1970; a test may set another. */
  now = () => Date.now();
  readonly #sql: SqlStorage;
  readonly quota: Quota;
  /** What was used and is not written. */
  readonly #unwritten = new Map<string, UsageRow>();
  #commit: Promise<void> | null = null;

  constructor(state: DurableObjectState, env: Env) {
    super(state, env);
    this.#sql = state.storage.sql;
    this.#sql.exec(schema);
    const [stored] = this.#sql.exec<{ state: string }>("SELECT state FROM quota").toArray();
    this.quota = new Quota(stored && (JSON.parse(stored.state) as QuotaState));
  }

  /** Counts a request before it is read. */
  admit(id: string, tenantLimits: TenantLimits): Decision {
    return this.#stored(this.quota.admit(id, tenantLimits, this.now()));
  }

  /** Reserves what an admitted request may come to. */
  reserve(id: string, tokens: number, tenantLimits: TenantLimits): Decision {
    return this.#stored(this.quota.reserve(id, tokens, tenantLimits, this.now()));
  }

  #stored(decision: Decision): Decision {
    if (!decision.refusal) this.#commitSoon().catch(() => undefined);
    return decision;
  }

  renew(id: string): void {
    this.quota.renew(id, this.now());
    this.#commitSoon().catch(() => undefined);
  }

  /** Ends a request, whether it has a reservation or not. Resolves when its use is written. */
  settle(id: string, consumed: Consumption[]): Promise<void> {
    this.quota.settle(id, tokensOf(consumed), this.now());
    return this.#count(consumed);
  }

  /** Counts what requests without reservations used. Resolves when it is written. */
  use(consumed: Consumption[]): Promise<void> {
    this.quota.use(tokensOf(consumed), this.now());
    return this.#count(consumed);
  }

  #count(consumed: readonly Consumption[]): Promise<void> {
    const day = new Date(this.now()).toISOString().slice(0, 10);
    for (const one of consumed) this.#use({ day, ...one });
    return this.#commitSoon();
  }

  /**
   * From one day to another, both counted, in order of time; one more than `limits.usageRows` where there are more. Names
   * are cut here, too: a row of another version of this code must not make the answer too large to send.
   */
  usage(from: string, to: string): UsageRow[] {
    if (this.#unwritten.size > 0) this.#write();
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

  #use(used: UsageRow): void {
    const row = { ...used, model: used.model.slice(0, limits.modelCharacters) };
    const key = JSON.stringify([row.day, row.model, row.centroid]);
    this.#unwritten.set(key, inAll(row, this.#unwritten.get(key)));
  }

  /** Resolves when all until now is written. */
  #commitSoon(): Promise<void> {
    this.#commit ??= new Promise<void>((resolve) => setTimeout(resolve, commitMs)).then(() => {
      this.#commit = null;
      this.#write();
    });
    return this.#commit;
  }

  #write(): void {
    this.ctx.storage.transactionSync(() => {
      for (const row of this.#unwritten.values()) {
        const { day, model, centroid, requests, promptTokens, completionTokens } = this.#hasRoomFor(row)
          ? row
          : { ...row, model: otherModels, centroid: null };
        this.#sql.exec(
          `INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,
           promptTokens = promptTokens + excluded.promptTokens, completionTokens = completionTokens + excluded.completionTokens`,
          ...[day, model, centroid ?? "", requests, promptTokens, completionTokens],
        );
      }
      this.#sql.exec("INSERT OR REPLACE INTO quota VALUES (1, ?)", JSON.stringify(this.quota.state));
    });
    this.#unwritten.clear();
  }

  /** Whether a row's use is counted by itself: its key has a row already, or its day can have one more. */
  #hasRoomFor({ day, model, centroid }: UsageRow): boolean {
    const { isKnown, keys } = this.#sql
      .exec<{ isKnown: number; keys: number }>(
        `SELECT EXISTS (SELECT 1 FROM usage WHERE day = ?1 AND model = ?2 AND centroid = ?3) AS isKnown,
           (SELECT count(*) FROM usage WHERE day = ?1) AS keys`,
        ...[day, model, centroid ?? ""],
      )
      .one();
    return isKnown === 1 || keys < usageKeysPerDay;
  }
}

function tokensOf(consumed: readonly Consumption[]): number {
  return consumed.reduce((sum, { promptTokens, completionTokens }) => sum + promptTokens + completionTokens, 0);
}
