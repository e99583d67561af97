/**
 * Records what requests used: counts it with the ledgers that admitted them, and reports it.
 *
 * A Durable Object keeps a settlement that its ledger does not confirm in its SQLite, and tries it again by its alarm; ledgers count
 * each settlement once, by its id. What no limit waits for, events and the use of tenants without limits, is gathered for
 * `gatherMs`: each call, commit and event costs about as much CPU as a short answer. An object that is lost meanwhile loses it.
 */
import { ensureAlarm } from "../platform/clock.ts";
import { pause } from "../platform/pause.ts";
import { type AdmittedRequest, type Consumption, inAll, type ReportUse, type UseRecorder } from "./consumption.ts";
import { type Ledger, ledgerOf } from "./ledger.ts";

const gatherMs = 250;
const firstRetryMs = 1000;
/** Less than a ledger remembers a settled request (quota.ts). */
const longestRetryMs = 120_000;
/** Delays before the second and third try of a Worker, in milliseconds: an object that was moved is back by then. */
const workerRetryMs = [200, 2000];

/** The recorder of a Worker, which has no storage: it tries to settle a few times. */
export function workerRecorder(ledgers: DurableObjectNamespace<Ledger>, report: ReportUse): UseRecorder {
  return {
    async record({ requestId, tenant, ledger }, consumed) {
      if (consumed.length > 0) report(tenant, consumed);
      for (const delayMs of [...workerRetryMs, null]) {
        try {
          return await ledgerOf(ledgers, ledger).settle(requestId, [...consumed]);
        } catch (error) {
          if (delayMs === null) throw error;
          await pause(delayMs);
        }
      }
    },
  };
}

/** Of one ledger, to be reported, and to be settled where no limit has waited for it. */
interface Gathered extends Pick<AdmittedRequest, "tenant" | "ledger" | "isLimited"> {
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
    storage.sql.exec(`CREATE TABLE IF NOT EXISTS settlements (
      id TEXT PRIMARY KEY, ledger TEXT NOT NULL, consumed TEXT NOT NULL
    ) WITHOUT ROWID`);
  }

  /** Nothing is gathered. */
  get idle(): boolean {
    return this.#gathered.size === 0;
  }

  async record(request: AdmittedRequest, consumed: readonly Consumption[]): Promise<void> {
    const { requestId, ledger, isLimited } = request;
    const settled = isLimited ? this.#settle(ledger, requestId, consumed) : null;
    if (consumed.length > 0) await this.#gather(request, consumed);
    await settled;
  }

  /** Resolves when the ledger has counted it, or when it is kept for another try. */
  async #settle(ledger: string, id: string, consumed: readonly Consumption[]): Promise<void> {
    try {
      await ledgerOf(this.#ledgers, ledger).settle(id, [...consumed]);
    } catch {
      const kept = JSON.stringify(consumed);
      this.#storage.sql.exec("INSERT OR REPLACE INTO settlements VALUES (?, ?, ?)", id, ledger, kept);
      await ensureAlarm(this.#storage, this.#now(), { delayMs: firstRetryMs, longestMs: longestRetryMs });
    }
  }

  #gather({ tenant, ledger, isLimited }: AdmittedRequest, consumed: readonly Consumption[]): Promise<void> {
    const key = `${ledger} ${isLimited}`;
    const gathered = this.#gathered.get(key) ?? { tenant, ledger, isLimited, consumed: new Map() };
    this.#gathered.set(key, gathered);
    for (const one of consumed) {
      const kind = JSON.stringify([one.model, one.centroid]);
      gathered.consumed.set(kind, inAll(one, gathered.consumed.get(kind)));
    }
    this.#flushing ??= pause(gatherMs).then(() => this.#flush());
    return this.#flushing;
  }

  /**
   * Settles under ids of its own: under a request's id, another object that has the same request, because this one was taken for
   * lost, would make the ledger drop one of the two groups.
   */
  async #flush(): Promise<void> {
    const all = [...this.#gathered.values()];
    this.#gathered.clear();
    this.#flushing = null;
    const flushed = all.map(async ({ tenant, ledger, isLimited, consumed: gathered }) => {
      const consumed = [...gathered.values()];
      const settled = isLimited ? null : this.#settle(ledger, this.#newId(), consumed);
      this.#report(tenant, consumed);
      await settled;
    });
    await Promise.all(flushed);
  }

  /** Tries again what was kept. The object's alarm calls it. */
  async retry(): Promise<void> {
    const kept = this.#storage.sql.exec<{ id: string; ledger: string; consumed: string }>("SELECT * FROM settlements");
    const tries = kept.toArray().map(async ({ id, ledger, consumed }) => {
      await ledgerOf(this.#ledgers, ledger).settle(id, JSON.parse(consumed) as Consumption[]);
      this.#storage.sql.exec("DELETE FROM settlements WHERE id = ?", id);
    });
    const results = await Promise.allSettled(tries);
    const hasFailed = results.some(({ status }) => status === "rejected");
    this.#failures = hasFailed ? this.#failures + 1 : 0;
    if (!hasFailed) return;
    await this.#storage.setAlarm(this.#now() + Math.min(longestRetryMs, firstRetryMs * 2 ** this.#failures));
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
