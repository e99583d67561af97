/**
 * The Durable Object that counts a tenant's use and decides whether its next request may run. A tenant has one ledger of its
 * own (named `acme`), and one in each region that its requests come from (`acme@weur`, created there). A region's ledger
 * admits up to the share that the tenant's ledger lends it (lease.ts), and sends its use there by an alarm until it is confirmed.
 *
 * Decisions are made in memory and written in one commit every `commitMs`, so that no request waits for a disk. An object that is
 * lost before the write loses reservations; use is confirmed only after the write.
 */
import { DurableObject } from "cloudflare:workers";
import { jurisdictionOf } from "../../shared/contracts/tenant-name.ts";
import { plans, type TenantLimits } from "../../shared/contracts/tenants.ts";
import { settlesWithin } from "../../shared/settles-within.ts";
import { ensureAlarm, pause, steadyClock } from "../platform/clock.ts";
import { objectNamed } from "../platform/objects.ts";
import { type Region, regions, regionsOf } from "../platform/region.ts";
import type { Claim } from "./charged-keys.ts";
import { type Consumption, tokensOf } from "./consumption.ts";
import {
  type Answer,
  amounts,
  Borrower,
  difference,
  hasAny,
  Lender,
  leaseOf,
  limitNames,
  noAmounts,
  type Report,
  sameLimits,
} from "./lease.ts";
import { partsOf, regionalName } from "./ledger-name.ts";
import { LedgerStore, type UsageBatch, type UsageRow } from "./ledger-store.ts";
import { type Amounts, type Decision, type Quota, type Refusal, type Share, settledMs } from "./quota.ts";

const commitMs = 20;
/** Delay of sending written use to the tenant's ledger. */
const sendMs = 1000;
/** Longest interval between two tries to send it. */
const maxRetryMs = 120_000;
/** Pause before a share that could not grow is requested again. */
const growthPauseMs = 1000;
/** Attempts to grow the share for one request. Each can free half of what others hold and do not use. */
const maxGrowths = 4;
/** Timeout of calls to the regions' ledgers. One that does not answer keeps its share. */
const regionMs = 1000;
/** The same for an erasure, which also creates the objects that do not exist yet. */
const eraseMs = 5000;

export interface ErasedRegions {
  confirmed: Region[];
  pending: Region[];
}

interface Exchange {
  answer: Answer;
  /** The last batch of use that is written. */
  batch: number;
}

export class Ledger extends DurableObject<Env> {
  /** A clock in milliseconds since 1970; a test may set another. */
  now = () => Date.now();
  readonly #steadyNow = steadyClock(() => this.now());
  quota!: Quota;
  readonly #store: LedgerStore;
  /** The name of the tenant's own ledger. */
  readonly #tenant: string;
  /** null for the tenant's own ledger. */
  readonly #region: Region | null;
  #lender!: Lender<Region>;
  #batches!: Map<Region, number>;
  borrower!: Borrower;
  /** The sum of what the requests that wait for a larger share need. */
  #needs: Amounts = noAmounts;
  #growing: Promise<void> | null = null;
  #growthMs = Number.NEGATIVE_INFINITY;
  #failedMs = Number.NEGATIVE_INFINITY;
  readonly #noGrowthUntilMs: Amounts = { ...noAmounts };
  #commit: Promise<void> | null = null;
  #failedCommits = 0;
  #failures = 0;

  constructor(state: DurableObjectState, env: Env) {
    super(state, env);
    const { tenant, region } = partsOf(state.id.name ?? "");
    this.#tenant = tenant;
    this.#region = region;
    this.#store = new LedgerStore(state.storage);
    this.#load();
  }

  #load(): void {
    this.quota = this.#store.quota();
    const lent = this.#store.fact("lent") ?? [];
    this.#lender = new Lender(lent);
    this.#batches = new Map(lent.map(([region, { batch }]) => [region, batch]));
    this.borrower = new Borrower(this.#store.fact("borrowed") ?? undefined);
  }

  /** Admits a request and reserves `tokens` for it; if they are not known yet, `reserve` does so later. */
  async admit(id: string, limits: TenantLimits, tokens?: number): Promise<Decision> {
    const tokensPerMonth = Math.max(1, tokens ?? 0);
    const needs = { requestsPerMinute: 1, concurrentRequests: 1, tokensPerMinute: tokens ?? 0, tokensPerMonth };
    const decision = await this.#decided(limits, needs, (share) => {
      const nowMs = this.now();
      // It is admitted already if it has waited for a larger share.
      if (tokens === undefined || !this.quota.isOpen(id)) {
        const admitted = this.quota.admit(id, limits, nowMs, share);
        if (admitted.refusal || tokens === undefined) return admitted;
      }
      return this.quota.reserve(id, tokens, limits, nowMs, share);
    });
    if (tokens === undefined || !this.quota.isOpen(id)) return decision;
    // It counts in the minute, but not as running.
    if (decision.refusal) this.settle(id, []).catch(() => undefined);
    return { ...decision, isOfTokens: true };
  }

  /** Reserves tokens for an admitted request. */
  reserve(id: string, tokens: number, limits: TenantLimits): Promise<Decision> {
    const needs = { ...noAmounts, tokensPerMinute: tokens, tokensPerMonth: tokens };
    return this.#decided(limits, needs, (share) => this.quota.reserve(id, tokens, limits, this.now(), share));
  }

  async #decided(limits: TenantLimits, needs: Amounts, decide: (share: Share) => Decision): Promise<Decision> {
    if (this.#hasOtherLimits(limits)) await this.#grow(limits, needs).catch(() => undefined);
    for (let growths = 0; ; growths++) {
      const decision = decide(this.#share(limits));
      if (!decision.refusal) {
        this.#commitSoon().catch(() => undefined);
        this.#growAhead(limits);
        return decision;
      }
      if (growths >= maxGrowths || !this.#mayGrow(decision.refusal)) return decision;
      await this.#grow(limits, needs);
    }
  }

  /** The share was lent for other limits. Once a second at most, because isolates learn of a change one after another. */
  #hasOtherLimits(limits: TenantLimits): boolean {
    const before = this.borrower.state.limits;
    if (this.#region === null || (before && sameLimits(before, limits))) return false;
    return this.#steadyNow() >= this.#growthMs + growthPauseMs;
  }

  #share(limits: TenantLimits): Share {
    return this.#region === null ? this.#lender.share(limits) : this.borrower.share;
  }

  /** Whether another ledger may have what is lacking here. */
  #mayGrow({ limit, maximum, requested }: Refusal): boolean {
    const isAll = this.#region === null ? this.#lender.lent()[limit] === 0 : this.borrower.share.own[limit] >= maximum;
    return requested <= maximum && !isAll && this.#steadyNow() >= this.#noGrowthUntilMs[limit];
  }

  /** Grows the share before it is used up, so that requests need not wait. */
  #growAhead(limits: TenantLimits): void {
    if (this.#region === null || this.#growing !== null || this.#steadyNow() < this.#failedMs + growthPauseMs) return;
    const used = this.quota.used(this.now());
    const { own } = this.borrower.share;
    const ends = amounts((limit) => {
      const maximum = limits[limit];
      const isAll = maximum === null || own[limit] >= maximum || this.#steadyNow() < this.#noGrowthUntilMs[limit];
      return !isAll && own[limit] - used[limit] < leaseOf(maximum) / 2 ? 1 : 0;
    });
    if (hasAny(ends)) this.ctx.waitUntil(this.#grow(limits, noAmounts).catch(() => undefined));
  }

  /** Grows the share by what waiting requests need, one attempt at a time. */
  async #grow(limits: TenantLimits, needs: Amounts): Promise<void> {
    this.#needs = amounts((limit) => this.#needs[limit] + needs[limit]);
    try {
      this.#growing ??= this.#growOnce(limits).finally(() => {
        this.#growing = null;
      });
      await this.#growing;
    } finally {
      this.#needs = difference(this.#needs, needs);
    }
  }

  async #growOnce(limits: TenantLimits): Promise<void> {
    this.#growthMs = this.#steadyNow();
    // Requests that waited for the last answer add their needs first.
    await Promise.resolve();
    try {
      const gained = this.#region === null ? await this.#recallFor(limits) : await this.#exchange(limits);
      for (const limit of limitNames) {
        if (gained && gained[limit] <= 0) this.#noGrowthUntilMs[limit] = this.#steadyNow() + growthPauseMs;
      }
    } catch (error) {
      this.#failedMs = this.#steadyNow();
      throw error;
    }
  }

  /** On the tenant's own ledger: recalls from regions. Returns what its share has gained of each limit. */
  async #recallFor(limits: TenantLimits): Promise<Amounts> {
    const before = this.#share(limits).own;
    await this.#recall(this.#needs, null);
    return difference(this.#share(limits).own, before);
  }

  /**
   * On a region's ledger: sends a report and use to the tenant's. Returns what the share has gained of each limit, 1 where it wanted
   * no more; null if the answer is outdated.
   */
  async #exchange(limits: TenantLimits): Promise<Amounts | null> {
    const report = this.borrower.requestShare(limits, this.quota.used(this.now()), this.#needs);
    this.#store.setFact("borrowed", this.borrower.state);
    const batch = this.#store.nextBatch();
    const tenantsLedger = ledgerOf(this.env.LEDGERS, this.#tenant);
    const exchanged: Exchange = await tenantsLedger.exchange(this.#region!, report, batch);
    const isCurrent = this.borrower.applyAnswer(exchanged.answer);
    this.#store.setFact("borrowed", this.borrower.state);
    this.#store.confirm(exchanged.batch);
    if (!isCurrent) return null;
    const { held, wants } = report;
    return amounts((limit) => (wants[limit] > held[limit] ? this.borrower.share.own[limit] - held[limit] : 1));
  }

  /** Decides a region's report and counts its use. Called on the tenant's own ledger. */
  async exchange(region: Region, report: Report, batch: UsageBatch | null): Promise<Exchange> {
    const lacking = this.#lender.lacking(region, report, this.quota.used(this.now()));
    if (hasAny(lacking)) await this.#recall(lacking, region);
    return this.#decideReport(region, report, batch);
  }

  #decideReport(region: Region, report: Report, batch: UsageBatch | null): Exchange {
    const answer = this.#lender.decide(region, report, this.quota.used(this.now()));
    if (batch && batch.number > (this.#batches.get(region) ?? 0)) {
      // Use from a region that is not erased yet is older than the erasure.
      const isErased = this.#store.fact("erased")?.regions.includes(region);
      if (!isErased) for (const row of batch.rows) this.#store.use(row);
      this.#batches.set(region, batch.number);
    }
    const batchOf = (one: Region) => this.#batches.get(one) ?? 0;
    this.#store.setLent(Array.from(this.#lender.regions, ([one, lent]) => [one, { ...lent, batch: batchOf(one) }]));
    this.#write();
    return { answer, batch: batchOf(region) };
  }

  /** Recalls what other regions hold and do not use. */
  async #recall(lacking: Amounts, except: Region | null): Promise<void> {
    const others = [...this.#lender.regions.keys()].filter((region) => region !== except);
    const recalls = others.map(async (region) => {
      const report: Report | null = await this.#regionsLedger(region).returnUnused(lacking);
      if (report) this.#decideReport(region, report, null);
    });
    await settlesWithin(Promise.allSettled(recalls), regionMs);
  }

  #regionsLedger(region: Region): DurableObjectStub<Ledger> {
    return ledgerOf(this.env.LEDGERS, regionalName(this.#tenant, region));
  }

  /**
   * Returns what is held and unused. Called on a region's ledger. While its share grows it returns nothing, because that would make
   * the answer on its way outdated.
   */
  returnUnused(lacking: Amounts): Report | null {
    if (this.#growing !== null) return null;
    const report = this.borrower.returnUnused(this.quota.used(this.now()), lacking);
    if (report) this.#store.setFact("borrowed", this.borrower.state);
    return report;
  }

  /** Extends the reservation of a running request. False if it is settled, or unknown. */
  renew(id: string): boolean {
    const isOpen = this.quota.renew(id, this.now());
    this.#commitSoon().catch(() => undefined);
    return isOpen;
  }

  /**
   * Ends a request, whether it has a reservation or not; without use it only frees what was reserved. The use of a request
   * is counted once, however often it is settled. Use of a request that began before an erasure is dropped. Resolves to what was
   * charged, which under an idempotency key is what exceeds earlier charges, when it is written.
   */
  async settle(id: string, consumed: Consumption[], beganMs = 0, key?: string): Promise<Consumption[]> {
    if (this.#wasErasedAfter(beganMs) && !this.quota.isOpen(id)) return [];
    const due = key === undefined ? consumed : this.#store.keys.due(key, consumed);
    const isCounted = this.quota.settle(id, tokensOf(consumed), this.now(), consumed.length > 0, tokensOf(due));
    const day = new Date(this.now()).toISOString().slice(0, 10);
    if (isCounted) for (const one of due) this.#store.use({ day, ...one });
    if (isCounted && key !== undefined && due.length > 0) this.#store.keys.charge(key, due);
    await this.#commitSoon();
    return isCounted ? due : [];
  }

  /** Claims an idempotency key for the body with this digest. null if the key came with another body before. */
  claim(key: string, digest: string): Claim | null {
    return this.#store.keys.claim(key, digest, this.now());
  }

  /**
   * Erases use, reservations and shares, on the tenant's own ledger in all regions. An alarm repeats it for regions that have not
   * confirmed. For `settledMs`, settlements of requests that began before are dropped.
   */
  async erase(): Promise<ErasedRegions> {
    const jurisdiction = jurisdictionOf(this.#tenant);
    const all = this.#region !== null ? [] : jurisdiction === null ? [...regions] : [...regionsOf[jurisdiction]];
    this.#store.erase({ atMs: this.now(), regions: all });
    this.#load();
    const pending = new Set(await this.#eraseRegions());
    return { confirmed: all.filter((region) => !pending.has(region)), pending: [...pending] };
  }

  async #eraseRegions(): Promise<Region[]> {
    const erased = this.#store.fact("erased");
    if (!erased || erased.regions.length === 0) return [];
    await this.#setAlarm(2 * eraseMs);
    const pending = new Set(erased.regions);
    const tries = erased.regions.map(async (region) => {
      await this.#regionsLedger(region).erase();
      pending.delete(region);
    });
    await settlesWithin(Promise.allSettled(tries), eraseMs);
    this.#store.setFact("erased", { ...erased, regions: [...pending] });
    return [...pending];
  }

  /** Whether an erasure of the last `settledMs` came after a request began. */
  #wasErasedAfter(beganMs: number): boolean {
    const erased = this.#store.fact("erased");
    return erased !== null && beganMs < erased.atMs && Math.abs(this.now() - erased.atMs) < settledMs;
  }

  /** Use in all regions that answer in time. Called on the tenant's own ledger. */
  async usage(from: string, to: string): Promise<UsageRow[]> {
    const sent = Array.from(this.#lender.regions.keys(), (region) => this.#regionsLedger(region).send());
    if (sent.length > 0) await settlesWithin(Promise.allSettled(sent), regionMs);
    if (this.#store.hasUnwrittenUse) this.#write();
    return this.#store.usage(from, to);
  }

  /** Sends all use to the tenant's ledger. Resolves when it is confirmed. Called on a region's ledger. */
  async send(): Promise<void> {
    this.#write();
    while (this.#store.nextBatch()) await this.#grow(this.borrower.state.limits ?? plans.unlimited, noAmounts);
  }

  override async alarm(): Promise<void> {
    try {
      if (this.#region !== null) await this.send();
      else if ((await this.#eraseRegions()).length > 0) throw new Error("not erased in every region");
      this.#failures = 0;
    } catch {
      this.#failures++;
      await this.#setAlarm(Math.min(maxRetryMs, sendMs * 2 ** this.#failures));
    }
  }

  #setAlarm(delayMs: number): Promise<void> {
    return ensureAlarm(this.ctx.storage, this.now(), { delayMs, maxDelayMs: maxRetryMs });
  }

  /** Resolves when all changes until now are written. Rejects if that fails, and tries again. */
  #commitSoon(): Promise<void> {
    const delayMs = Math.min(sendMs, commitMs * 2 ** this.#failedCommits);
    this.#commit ??= pause(delayMs).then(() => this.#commitNow());
    return this.#commit;
  }

  async #commitNow(): Promise<void> {
    this.#commit = null;
    const isToSend = this.#region !== null && this.#store.hasUnwrittenUse;
    try {
      // Before the write: use that is written without an alarm would not be sent until more came.
      if (isToSend) await this.#setAlarm(sendMs);
      this.#write();
      this.#failedCommits = 0;
    } catch (error) {
      this.#failedCommits++;
      this.#commitSoon().catch(() => undefined);
      throw error;
    }
    // The tenant's ledger calls only regions that it knows, so a new region reports at once.
    if (isToSend && this.#store.fact("batch") === null) this.ctx.waitUntil(this.send().catch(() => undefined));
  }

  #write(): void {
    this.quota.writeChanges((changes) => this.#store.write(changes));
  }
}

/** A region's ledger is created in its region. */
export function ledgerOf(ledgers: DurableObjectNamespace<Ledger>, name: string): DurableObjectStub<Ledger> {
  return objectNamed(ledgers, name, partsOf(name).region);
}
