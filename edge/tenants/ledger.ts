/**
 * The Durable Object of one tenant: what it has used, and whether its next request may run. Quota decides, this stores.
 *
 * A reservation is answered from memory and written right after: an object that is lost within those milliseconds forgets
 * it, and none waits for a disk. What was used is written before anybody is told. No timer is set but that write's.
 */
import { DurableObject } from "cloudflare:workers";
import type { TenantLimits } from "../../shared/contracts/tenants.ts";
import { type Decision, Quota, type QuotaState } from "./quota.ts";

/** What one request used of one centroid. */
export interface Consumption {
  model: string;
  /** null for the base alone. */
  centroid: string | null;
  requests: number;
  promptTokens: number;
  completionTokens: number;
}

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

export class Ledger extends DurableObject<Env> {
  /** A clock in milliseconds since 1970; a test may set another. */
  now = () => Date.now();
  readonly #sql: SqlStorage;
  readonly quota: Quota;
  #writeIsDue = false;

  constructor(state: DurableObjectState, env: Env) {
    super(state, env);
    this.#sql = state.storage.sql;
    this.#sql.exec(schema);
    const [stored] = this.#sql.exec<{ state: string }>("SELECT state FROM quota").toArray();
    this.quota = new Quota(stored && (JSON.parse(stored.state) as QuotaState));
  }

  reserve(id: string, tokens: number, limits: TenantLimits): Decision {
    const decision = this.quota.reserve(id, tokens, limits, this.now());
    if (!decision.refusal) this.#writeSoon();
    return decision;
  }

  renew(id: string): void {
    this.quota.renew(id, this.now());
    this.#writeSoon();
  }

  /** Ends a request, whether it has a reservation or not. */
  settle(id: string, consumed: Consumption[]): void {
    const nowMs = this.now();
    const tokens = consumed.reduce(
      (sum, { promptTokens, completionTokens }) => sum + promptTokens + completionTokens,
      0,
    );
    this.quota.settle(id, tokens, nowMs);
    const day = new Date(nowMs).toISOString().slice(0, 10);
    for (const { model, centroid, requests, promptTokens, completionTokens } of consumed) {
      this.#sql.exec(
        `INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,
         promptTokens = promptTokens + excluded.promptTokens, completionTokens = completionTokens + excluded.completionTokens`,
        ...[day, model, centroid ?? "", requests, promptTokens, completionTokens],
      );
    }
    this.#write();
  }

  /** From one day to another, both counted, in order of time. */
  usage(from: string, to: string): UsageRow[] {
    const rows = this.#sql.exec<{ [Name in keyof UsageRow]: NonNullable<UsageRow[Name]> }>(
      "SELECT * FROM usage WHERE day BETWEEN ? AND ? ORDER BY day, model, centroid",
      from,
      to,
    );
    return [...rows].map((row) => ({ ...row, centroid: row.centroid || null }));
  }

  #writeSoon(): void {
    if (this.#writeIsDue) return;
    this.#writeIsDue = true;
    // After the answer has left: the platform holds answers back until what was written before them is safe.
    setTimeout(() => this.#write(), 0);
  }

  #write(): void {
    this.#writeIsDue = false;
    this.#sql.exec("INSERT OR REPLACE INTO quota VALUES (1, ?)", JSON.stringify(this.quota.state));
  }
}
