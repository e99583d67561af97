/**
 * Settles requests with the ledgers that admitted them, from a Durable Object. A settlement that a ledger does not confirm
 * is kept in the object's SQLite and tried again by its alarm; ledgers count each settlement once, by its id. That of a tenant
 * without limits is of all requests of `gatherUseMs`, since the time of counting does not matter for them. An object that is lost
 * before the first try loses what it has not sent.
 */
import { ensureAlarm } from "../platform/alarm.ts";
import { pause } from "../platform/pause.ts";
import { type Consumption, gatherUseMs } from "./consumption.ts";
import { type Ledger, ledgerOf } from "./ledger.ts";

const firstRetryMs = 1000;
/** Less than a ledger remembers a settled request (quota.ts). */
const longestRetryMs = 120_000;

interface Group {
  consumed: Consumption[];
  settled: Promise<void>;
}

export class Settlements {
  readonly #ledgers: DurableObjectNamespace<Ledger>;
  readonly #storage: DurableObjectStorage;
  readonly #now: () => number;
  readonly #newId: () => string;
  readonly #groups = new Map<string, Group>();
  #failures = 0;

  constructor(
    ledgers: DurableObjectNamespace<Ledger>,
    storage: DurableObjectStorage,
    { now, newId }: { now(): number; newId(): string },
  ) {
    this.#ledgers = ledgers;
    this.#storage = storage;
    this.#now = now;
    this.#newId = newId;
    storage.sql.exec(`CREATE TABLE IF NOT EXISTS settlements (
      id TEXT PRIMARY KEY, ledger TEXT NOT NULL, consumed TEXT NOT NULL
    ) WITHOUT ROWID`);
  }

  /** Resolves when the ledger has counted it, or when it is kept for another try. */
  async settle(ledger: string, id: string, consumed: readonly Consumption[]): Promise<void> {
    try {
      await ledgerOf(this.#ledgers, ledger).settle(id, [...consumed]);
    } catch {
      const kept = JSON.stringify(consumed);
      this.#storage.sql.exec("INSERT OR REPLACE INTO settlements VALUES (?, ?, ?)", id, ledger, kept);
      await ensureAlarm(this.#storage, this.#now(), { delayMs: firstRetryMs, longestMs: longestRetryMs });
    }
  }

  /**
   * Settles with what else comes within `gatherUseMs`, under an id of the group's own: under a request's id, another object that
   * has the same request, because this one was taken for lost, would make the ledger drop one of the two groups.
   */
  gather(ledger: string, consumed: readonly Consumption[]): Promise<void> {
    const group = this.#groups.get(ledger);
    if (group) {
      group.consumed.push(...consumed);
      return group.settled;
    }
    const gathering = [...consumed];
    const settled = pause(gatherUseMs).then(() => {
      this.#groups.delete(ledger);
      return this.settle(ledger, this.#newId(), gathering);
    });
    this.#groups.set(ledger, { consumed: gathering, settled });
    return settled;
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
