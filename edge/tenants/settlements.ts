/**
 * Records the use of requests: counts it with the ledgers that admitted them, and reports it. An answer ends once its use is recorded.
 *
 * Settlements of one ledger travel together while a call of it is on its way, because each call and commit costs about as much CPU as a
 * short answer. A Durable Object stores a settlement that its ledger does not confirm, and repeats it by its alarm; ledgers count each
 * settlement once, by its id.
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

/** Answers end without their ledger's confirmation after this time, in milliseconds. */
const confirmMs = 1000;
const firstRetryMs = 1000;
/** Less than a ledger remembers a settled request (quota.ts). */
const maxRetryMs = 120_000;
/** Delays before the second and third try of a Worker, in milliseconds: an object that was moved is back by then. */
const workerRetryMs = [200, 2000];

/** The recorder of a Worker, which has no storage: it tries three times. */
export function workerRecorder(ledgers: DurableObjectNamespace<Ledger>, report: ReportUse): UseRecorder {
  return {
    async record({ requestId, tenant, beganMs, idempotencyKey }, consumed) {
      for (const delayMs of [...workerRetryMs, null]) {
        try {
          const due = await ledgerOf(ledgers, tenant).settle(requestId, [...consumed], beganMs, idempotencyKey);
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

/** Settlements that one call of their ledger makes. */
interface Group {
  settlements: Settlement[];
  isSent: boolean;
  recorded: Promise<void>;
}

export class Settlements implements UseRecorder {
  readonly #ledgers: DurableObjectNamespace<Ledger>;
  readonly #storage: DurableObjectStorage;
  readonly #now: () => number;
  readonly #newId: () => string;
  readonly #report: ReportUse;
  /** The latest group by tenant. */
  readonly #groups = new Map<string, Group>();
  #failures = 0;

  constructor(
    ledgers: DurableObjectNamespace<Ledger>,
    storage: DurableObjectStorage,
    { now, newId, report }: { now(): number; newId(): string; report: ReportUse },
  ) {
    this.#ledgers = ledgers;
    this.#storage = storage;
    this.#now = now;
    this.#newId = newId;
    this.#report = report;
    storage.sql.exec(`CREATE TABLE IF NOT EXISTS unsettled (
      id TEXT PRIMARY KEY, tenant TEXT NOT NULL, consumed TEXT NOT NULL, beganMs REAL NOT NULL, key TEXT
    ) WITHOUT ROWID`);
  }

  get idle(): boolean {
    return this.#groups.size === 0;
  }

  record(request: AdmittedRequest, consumed: readonly Consumption[]): Promise<void> {
    const { settlements, recorded } = this.#groupOf(request.tenant);
    // Without limits and key, the settlements of a group are one, so that the ledger remembers few ids. Under a request's id, it would
    // drop one of two groups if another object took over the request.
    const isMerged = !request.isLimited && request.idempotencyKey === undefined;
    const merged = isMerged ? settlements.find((one) => one.isMerged) : undefined;
    if (merged) {
      merged.consumed.push(...consumed);
      merged.beganMs = Math.min(merged.beganMs, request.beganMs);
    } else {
      const { requestId, beganMs, idempotencyKey } = request;
      const id = isMerged ? this.#newId() : requestId;
      settlements.push({ id, consumed: [...consumed], beganMs, idempotencyKey, isMerged });
    }
    return recorded;
  }

  /** The group that the next call of a ledger sends. */
  #groupOf(tenant: string): Group {
    const latest = this.#groups.get(tenant);
    if (latest && !latest.isSent) return latest;
    const before = latest?.recorded.catch(() => undefined) ?? Promise.resolve();
    const group: Group = { settlements: [], isSent: false, recorded: before.then(() => this.#send(tenant, group)) };
    this.#groups.set(tenant, group);
    return group;
  }

  /** Resolves when the ledger has confirmed the group, or when it is stored for another try. */
  async #send(tenant: string, group: Group): Promise<void> {
    group.isSent = true;
    try {
      const charged = ledgerOf(this.#ledgers, tenant).settleAll(group.settlements);
      const due = (await settlesWithin(charged, confirmMs)) ? await charged.catch(() => null) : null;
      if (due) return this.#reportDue(tenant, due);
      for (const one of group.settlements) this.#store(tenant, one);
      // A ledger that confirms too late finds nothing due in the stored ones.
      charged.then(
        (late) => this.#reportDue(tenant, late),
        () => undefined,
      );
      await this.#ensureRetry();
      await this.#storage.sync();
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
    if (due.length > 0) this.#report(tenant, [...summed.values()]);
  }

  /** Stores a settlement in the present transaction, then makes it. */
  async store(request: AdmittedRequest, consumed: Consumption[]): Promise<void> {
    const { requestId: id, tenant, beganMs, idempotencyKey } = request;
    this.#store(tenant, { id, consumed, beganMs, idempotencyKey });
    await this.#ensureRetry();
    await this.retry();
  }

  #ensureRetry(): Promise<void> {
    return ensureAlarm(this.#storage, this.#now(), { delayMs: firstRetryMs, maxDelayMs: maxRetryMs });
  }

  #store(tenant: string, { id, consumed, beganMs, idempotencyKey }: Settlement): void {
    const stored = [id, tenant, JSON.stringify(consumed), beganMs, idempotencyKey ?? null];
    this.#storage.sql.exec("INSERT OR REPLACE INTO unsettled VALUES (?, ?, ?, ?, ?)", ...stored);
  }

  /** Makes the stored settlements, or else sets the alarm. The object's alarm calls it last. */
  async retry(): Promise<void> {
    type Row = { id: string; tenant: string; consumed: string; beganMs: number; key: string | null };
    const stored = this.#storage.sql.exec<Row>("SELECT * FROM unsettled");
    const tries = stored.toArray().map(async ({ id, tenant, consumed, beganMs, key }) => {
      const use = JSON.parse(consumed) as Consumption[];
      const due = await ledgerOf(this.#ledgers, tenant).settle(id, use, beganMs, key ?? undefined);
      this.#storage.sql.exec("DELETE FROM unsettled WHERE id = ?", id);
      this.#reportDue(tenant, due);
    });
    const results = await Promise.allSettled(tries);
    const hasFailed = results.some(({ status }) => status === "rejected");
    this.#failures = hasFailed ? this.#failures + 1 : 0;
    if (!hasFailed) return;
    const delayMs = Math.min(maxRetryMs, firstRetryMs * 2 ** this.#failures);
    await ensureAlarm(this.#storage, this.#now(), { delayMs, maxDelayMs: delayMs });
  }
}

/** Reports use to the dataset of the deployment, if it has one: an event for each model and centroid. */
export function usageReport({ USAGE_EVENTS }: { USAGE_EVENTS?: AnalyticsEngineDataset }): ReportUse {
  return (tenant, consumed) => {
    for (const { model, centroid, requests, promptTokens, completionTokens } of consumed) {
      const doubles = [requests, promptTokens, completionTokens];
      USAGE_EVENTS?.writeDataPoint({ indexes: [tenant], blobs: [model, centroid], doubles });
    }
  };
}
