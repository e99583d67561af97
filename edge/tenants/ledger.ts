/**
 * The Durable Object that counts a tenant's use and decides whether its next request may run; it has the tenant's name.
 *
 * Decisions are made in memory and written in one commit every `commitMs`, so that no request waits for a disk before its first token.
 * An object that is lost before the write loses reservations; use is confirmed only after the write, for which an answer's end waits.
 */
import { DurableObject } from "cloudflare:workers";
import type { TenantLimits } from "../../shared/contracts/tenants.ts";
import { pause } from "../platform/clock.ts";
import { objectNamed } from "../platform/objects.ts";
import type { Region } from "../platform/region.ts";
import type { Claim } from "./charged-keys.ts";
import { type Consumption, type Settlement, tokensOf } from "./consumption.ts";
import { LedgerStore, type UsageRow } from "./ledger-store.ts";
import { type Decision, type Quota, settledMs } from "./quota.ts";

const commitMs = 20;
/** Longest pause before a failed commit is tried again. */
const maxCommitMs = 1000;

export class Ledger extends DurableObject<Env> {
  /** A clock in milliseconds since 1970; a test may set another. */
  now = () => Date.now();
  quota: Quota;
  readonly #store: LedgerStore;
  #commit: Promise<void> | null = null;
  #settledMs = Number.NEGATIVE_INFINITY;
  #failedCommits = 0;

  constructor(state: DurableObjectState, env: Env) {
    super(state, env);
    this.#store = new LedgerStore(state.storage);
    this.quota = this.#store.quota(this.now());
  }

  /** Admits a request and reserves `tokens` for it; if they are not known yet, `reserve` does so later. */
  admit(id: string, limits: TenantLimits, tokens?: number): Decision {
    const admitted = this.quota.admit(id, limits, this.now());
    if (admitted.refusal) return admitted;
    this.#commitSoon().catch(() => undefined);
    if (tokens === undefined) return admitted;
    const decision = this.quota.reserve(id, tokens, limits, this.now());
    // It counts in the minute, but not as running.
    if (decision.refusal) this.settle(id, []).catch(() => undefined);
    return { ...decision, isOfTokens: true };
  }

  /** Reserves tokens for an admitted request. */
  reserve(id: string, tokens: number, limits: TenantLimits): Decision {
    const decision = this.quota.reserve(id, tokens, limits, this.now());
    if (!decision.refusal) this.#commitSoon().catch(() => undefined);
    return decision;
  }

  /** Extends the reservation of a running request. False if it is settled, or unknown. */
  renew(id: string): boolean {
    const isOpen = this.quota.renew(id, this.now());
    this.#commitSoon().catch(() => undefined);
    return isOpen;
  }

  /** Settles one request (`settleAll`). */
  settle(id: string, consumed: Consumption[], beganMs = 0, idempotencyKey?: string): Promise<Consumption[]> {
    return this.settleAll([{ id, consumed, beganMs, idempotencyKey }]);
  }

  /**
   * Ends requests, whether they have reservations or not; without use it only frees what was reserved. The use of a request
   * is counted once, however often it is settled. Use of a request that began before an erasure is dropped. Resolves to what was
   * charged, which under an idempotency key is what exceeds earlier charges, when it is written.
   */
  async settleAll(settlements: readonly Settlement[]): Promise<Consumption[]> {
    const charged = settlements.flatMap((one) => this.#settle(one));
    await this.#commitSettled();
    return charged;
  }

  #settle({ id, consumed, beganMs, idempotencyKey: key }: Settlement): Consumption[] {
    if (this.#wasErasedAfter(beganMs) && !this.quota.isOpen(id)) return [];
    const due = key === undefined ? consumed : this.#store.keys.due(key, consumed);
    const isCounted = this.quota.settle(id, tokensOf(consumed), this.now(), consumed.length > 0, tokensOf(due));
    if (!isCounted) return [];
    const day = new Date(this.now()).toISOString().slice(0, 10);
    for (const one of due) this.#store.use({ day, ...one });
    if (key !== undefined && due.length > 0) this.#store.keys.charge(key, due);
    return due;
  }

  /** Claims an idempotency key for the body with this digest. null if the key came with another body before. */
  claim(key: string, digest: string): Claim | null {
    return this.#store.keys.claim(key, digest, this.now());
  }

  /** Erases use and reservations. For `settledMs`, settlements of requests that began before are dropped. */
  erase(): void {
    this.#store.erase(this.now());
    this.quota = this.#store.quota(this.now());
  }

  /** Whether an erasure of the last `settledMs` came after a request began. */
  #wasErasedAfter(beganMs: number): boolean {
    const { erasedMs } = this.#store;
    return erasedMs !== null && beganMs < erasedMs && Math.abs(this.now() - erasedMs) < settledMs;
  }

  /** Use from one day to another, inclusive. */
  usage(from: string, to: string): UsageRow[] {
    if (this.#store.hasUnwrittenUse) this.#write();
    return this.#store.usage(from, to);
  }

  /** As `#commitSoon`, without its delay if it is the first within `commitMs`: answers wait for it. */
  async #commitSettled(): Promise<void> {
    const sinceMs = Math.abs(this.now() - this.#settledMs);
    if (sinceMs < commitMs || this.#failedCommits > 0) return this.#commitSoon();
    this.#settledMs = this.now();
    this.#commitNow();
  }

  /** Resolves when all changes until now are written. Rejects if that fails, and tries again. */
  #commitSoon(): Promise<void> {
    const delayMs = Math.min(maxCommitMs, commitMs * 2 ** this.#failedCommits);
    this.#commit ??= pause(delayMs).then(() => {
      this.#commit = null;
      this.#commitNow();
    });
    return this.#commit;
  }

  #commitNow(): void {
    try {
      this.#write();
      this.#failedCommits = 0;
    } catch (error) {
      this.#failedCommits++;
      this.#commitSoon().catch(() => undefined);
      throw error;
    }
  }

  #write(): void {
    this.quota.writeChanges((changes) => this.#store.write(changes));
  }
}

/** `region`: of the request; a ledger is created where its tenant's first request comes from. */
export function ledgerOf(
  ledgers: DurableObjectNamespace<Ledger>,
  tenant: string,
  region: Region | null = null,
): DurableObjectStub<Ledger> {
  return objectNamed(ledgers, tenant, region);
}
