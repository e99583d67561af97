/**
 * Counts the use of requests with their ledgers, and reports it. During a call to a ledger, further settlements form a group, because a
 * call costs as much CPU as a short answer. A Durable Object stores a group that the ledger does not confirm, and sends it again. Ledgers
 * count each settlement once.
 */
import { settlesWithin } from "../../shared/settles-within.ts";
import { ensureAlarm, pause } from "../platform/clock.ts";
import {
  type AdmittedRequest,
  addUse,
  type Consumption,
  type ReportUse,
  type Settlement,
  type UseRecorder,
} from "./consumption.ts";
import { type Ledger, ledgerOf } from "./ledger.ts";

/** Timeout for a ledger's confirmation. The settlement is then stored for another try. */
const confirmMs = 1000;
const firstRetryMs = 1000;
/** Longest pause between two tries. A ledger keeps a settled id for longer (`settledMs`). */
const maxRetryMs = 120_000;
/** Delays before a Worker's second and third try, in milliseconds. Meanwhile, the platform restarts a lost object elsewhere. */
const workerRetryMs = [200, 2000];

/** A Worker has no storage, so it tries three times. */
export function workerRecorder(ledgers: DurableObjectNamespace<Ledger>, report: ReportUse): UseRecorder {
  return {
    async record(request, consumed) {
      const { requestId, tenant } = request;
      for (const delayMs of [...workerRetryMs, null]) {
        try {
          const due = await ledgerOf(ledgers, tenant).settleAll(requestId, [{ request, consumed }]);
          if (due.length > 0) report(tenant, due);
          return;
        } catch (error) {
          if (delayMs === null) throw error;
          await pause(delayMs);
        }
      }
    },
  };
}

interface Group {
  id: string;
  settlements: Settlement[];
  isSent: boolean;
  recorded: Promise<void>;
}

interface SettlementParts {
  ledgers: DurableObjectNamespace<Ledger>;
  storage: DurableObjectStorage;
  now(): number;
  newId(): string;
  report: ReportUse;
}

export class Settlements implements UseRecorder {
  readonly #parts: SettlementParts;
  readonly #groups = new Map<string, Group>();
  #failures = 0;

  constructor(parts: SettlementParts) {
    this.#parts = parts;
    parts.storage.sql.exec(`CREATE TABLE IF NOT EXISTS unsettledGroups (
      id TEXT PRIMARY KEY, tenant TEXT NOT NULL, settlements TEXT NOT NULL
    ) WITHOUT ROWID`);
  }

  get idle(): boolean {
    return this.#groups.size === 0;
  }

  record(request: AdmittedRequest, consumed: readonly Consumption[]): Promise<void> {
    const { settlements, recorded } = this.#groupOf(request.tenant);
    settlements.push({ request, consumed });
    return recorded;
  }

  #groupOf(tenant: string): Group {
    const latest = this.#groups.get(tenant);
    if (latest && !latest.isSent) return latest;
    const before = latest?.recorded.catch(() => undefined) ?? Promise.resolve();
    const recorded = before.then(() => this.#send(tenant, group));
    const group: Group = { id: this.#parts.newId(), settlements: [], isSent: false, recorded };
    this.#groups.set(tenant, group);
    return group;
  }

  /** Resolves when the ledger has confirmed the group, or when the group is stored for another try. */
  async #send(tenant: string, group: Group): Promise<void> {
    group.isSent = true;
    try {
      const charged = ledgerOf(this.#parts.ledgers, tenant).settleAll(group.id, group.settlements);
      const due = (await settlesWithin(charged, confirmMs)) ? await charged.catch(() => null) : null;
      if (due) return this.#reportDue(tenant, due);
      this.#store(group.id, tenant, group.settlements);
      // A late confirmation is reported here. The stored group is sent again, but the ledger then charges nothing.
      const ignore = () => undefined;
      charged.then((late) => this.#reportDue(tenant, late), ignore);
      await this.#ensureRetry();
      await this.#parts.storage.sync();
    } finally {
      if (this.#groups.get(tenant) === group) this.#groups.delete(tenant);
    }
  }

  #reportDue(tenant: string, due: readonly Consumption[]): void {
    const summed = new Map<string, Consumption>();
    for (const one of due) {
      const kind = JSON.stringify([one.model, one.centroid]);
      summed.set(kind, addUse(one, summed.get(kind)));
    }
    if (due.length > 0) this.#parts.report(tenant, [...summed.values()]);
  }

  /** Stores a settlement in the present transaction, then sends all stored groups. */
  async store(request: AdmittedRequest, consumed: Consumption): Promise<void> {
    this.#store(request.requestId, request.tenant, [{ request, consumed: [consumed] }]);
    await this.#ensureRetry();
    await this.retry();
  }

  #ensureRetry(): Promise<void> {
    return ensureAlarm(this.#parts.storage, this.#parts.now(), { delayMs: firstRetryMs, maxDelayMs: maxRetryMs });
  }

  #store(id: string, tenant: string, settlements: readonly Settlement[]): void {
    const stored = JSON.stringify(settlements);
    this.#parts.storage.sql.exec("INSERT OR REPLACE INTO unsettledGroups VALUES (?, ?, ?)", id, tenant, stored);
  }

  erase(): void {
    this.#parts.storage.sql.exec("DELETE FROM unsettledGroups");
  }

  /** Sends the stored groups, and sets the alarm if one fails. The alarm calls this as its last step. */
  async retry(): Promise<void> {
    type Row = { id: string; tenant: string; settlements: string };
    const stored = this.#parts.storage.sql.exec<Row>("SELECT * FROM unsettledGroups").toArray();
    const tries = stored.map(async ({ id, tenant, settlements }) => {
      const due = await ledgerOf(this.#parts.ledgers, tenant).settleAll(id, JSON.parse(settlements) as Settlement[]);
      this.#parts.storage.sql.exec("DELETE FROM unsettledGroups WHERE id = ?", id);
      this.#reportDue(tenant, due);
    });
    const results = await Promise.allSettled(tries);
    const hasFailed = results.some(({ status }) => status === "rejected");
    this.#failures = hasFailed ? this.#failures + 1 : 0;
    if (!hasFailed) return;
    const delayMs = Math.min(maxRetryMs, firstRetryMs * 2 ** this.#failures);
    await ensureAlarm(this.#parts.storage, this.#parts.now(), { delayMs, maxDelayMs: delayMs });
  }
}

export function usageReport({ USAGE_EVENTS }: { USAGE_EVENTS?: AnalyticsEngineDataset }): ReportUse {
  return (tenant, consumed) => {
    for (const { model, centroid, requests, promptTokens, completionTokens } of consumed) {
      const doubles = [requests, promptTokens, completionTokens];
      USAGE_EVENTS?.writeDataPoint({ indexes: [tenant], blobs: [model, centroid], doubles });
    }
  };
}
