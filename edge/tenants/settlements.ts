/**
 * Records the use of requests: counts it with the ledgers that admitted them, and reports it.
 *
 * A Durable Object stores a settlement that its ledger does not confirm, and repeats it by its alarm; ledgers count each settlement
 * once, by its id. Usage events, and the use of tenants without limits, are gathered for `gatherMs`, because each call, commit and
 * event costs about as much CPU as a short answer. They are lost if the object is lost meanwhile.
 */
import { ensureAlarm, pause } from "../platform/clock.ts";
import { type AdmittedRequest, addUse, type Consumption, type ReportUse, type UseRecorder } from "./consumption.ts";
import { type Ledger, ledgerOf } from "./ledger.ts";
import { tenantOf } from "./ledger-name.ts";

const gatherMs = 250;
const firstRetryMs = 1000;
/** Less than a ledger remembers a settled request (quota.ts). */
const maxRetryMs = 120_000;
/** Delays before the second and third try of a Worker, in milliseconds: an object that was moved is back by then. */
const workerRetryMs = [200, 2000];

/** The recorder of a Worker, which has no storage: it tries three times. */
export function workerRecorder(ledgers: DurableObjectNamespace<Ledger>, report: ReportUse): UseRecorder {
  return {
    async record({ requestId, tenant, ledger, beganMs, idempotencyKey }, consumed) {
      for (const delayMs of [...workerRetryMs, null]) {
        try {
          const due = await ledgerOf(ledgers, ledger).settle(requestId, [...consumed], beganMs, idempotencyKey);
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

type Settled = Pick<AdmittedRequest, "ledger" | "beganMs" | "idempotencyKey">;

/** Use of one ledger to report, and to settle if its tenant has no limits; `beganMs` is that of the earliest request. */
interface Gathered extends Pick<AdmittedRequest, "tenant" | "ledger" | "beganMs" | "isLimited"> {
  /** By model and centroid. */
  consumed: Map<string, Consumption>;
}

export class Settlements implements UseRecorder {
  readonly #ledgers: DurableObjectNamespace<Ledger>;
  readonly #storage: DurableObjectStorage;
  readonly #now: () => number;
  readonly #newId: () => string;
  readonly #report: ReportUse;
  readonly #gathered = new Map<string, Gathered>();
  #flushing: Promise<void> | null = null;
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
      id TEXT PRIMARY KEY, ledger TEXT NOT NULL, consumed TEXT NOT NULL, beganMs REAL NOT NULL, key TEXT
    ) WITHOUT ROWID`);
  }

  get idle(): boolean {
    return this.#gathered.size === 0;
  }

  async record(request: AdmittedRequest, consumed: readonly Consumption[]): Promise<void> {
    if (request.idempotencyKey !== undefined) {
      // Only the ledger knows what is new. One settlement alone, as a group has no key.
      const due = await this.#settle(request, request.requestId, consumed);
      if (due.length > 0) this.#report(request.tenant, due);
      return;
    }
    const settled = request.isLimited ? this.#settle(request, request.requestId, consumed) : null;
    if (consumed.length > 0) await this.#gather(request, consumed);
    await settled;
  }

  /** Resolves to what the ledger has charged, or to nothing when it is stored for another try. */
  async #settle(settled: Settled, id: string, consumed: readonly Consumption[]): Promise<Consumption[]> {
    const { ledger, beganMs, idempotencyKey } = settled;
    try {
      return await ledgerOf(this.#ledgers, ledger).settle(id, [...consumed], beganMs, idempotencyKey);
    } catch {
      this.#store(settled, id, consumed);
      await ensureAlarm(this.#storage, this.#now(), { delayMs: firstRetryMs, maxDelayMs: maxRetryMs });
      return [];
    }
  }

  #gather({ tenant, ledger, beganMs, isLimited }: AdmittedRequest, consumed: readonly Consumption[]): Promise<void> {
    const key = `${ledger} ${isLimited}`;
    const gathered = this.#gathered.get(key) ?? { tenant, ledger, beganMs, isLimited, consumed: new Map() };
    gathered.beganMs = Math.min(gathered.beganMs, beganMs);
    this.#gathered.set(key, gathered);
    for (const one of consumed) {
      const kind = JSON.stringify([one.model, one.centroid]);
      gathered.consumed.set(kind, addUse(one, gathered.consumed.get(kind)));
    }
    this.#flushing ??= pause(gatherMs).then(() => this.#flush());
    return this.#flushing;
  }

  /**
   * Settles under new ids. Under a request's id, the ledger would drop one of two groups if another object took over the request.
   */
  async #flush(): Promise<void> {
    const all = [...this.#gathered.values()];
    this.#gathered.clear();
    this.#flushing = null;
    const flushed = all.map(async (gathered) => {
      const consumed = [...gathered.consumed.values()];
      const settled = gathered.isLimited ? null : this.#settle(gathered, this.#newId(), consumed);
      this.#report(gathered.tenant, consumed);
      await settled;
    });
    await Promise.all(flushed);
  }

  /** Stores a settlement in the present transaction; `retry` makes it. Reports the use, unless only the ledger knows what is new. */
  store(request: AdmittedRequest, consumed: readonly Consumption[]): void {
    if (request.idempotencyKey === undefined) this.#report(request.tenant, consumed);
    this.#store(request, request.requestId, consumed);
  }

  #store({ ledger, beganMs, idempotencyKey }: Settled, id: string, consumed: readonly Consumption[]): void {
    const stored = [id, ledger, JSON.stringify(consumed), beganMs, idempotencyKey ?? null];
    this.#storage.sql.exec("INSERT OR REPLACE INTO unsettled VALUES (?, ?, ?, ?, ?)", ...stored);
  }

  /** Makes the stored settlements, or else sets the alarm. The object's alarm calls it last. */
  async retry(): Promise<void> {
    type Row = { id: string; ledger: string; consumed: string; beganMs: number; key: string | null };
    const stored = this.#storage.sql.exec<Row>("SELECT * FROM unsettled");
    const tries = stored.toArray().map(async ({ id, ledger, consumed, beganMs, key }) => {
      const use = JSON.parse(consumed) as Consumption[];
      const due = await ledgerOf(this.#ledgers, ledger).settle(id, use, beganMs, key ?? undefined);
      if (key !== null && due.length > 0) this.#report(tenantOf(ledger), due);
      this.#storage.sql.exec("DELETE FROM unsettled WHERE id = ?", id);
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
