/**
 * The Durable Object that counts a tenant's use and admits its requests. It decides in RAM and commits changes every `commitMs`. A lost
 * object loses uncommitted reservations but no use, because an answer ends only after its use is committed.
 */
import { DurableObject } from "cloudflare:workers";
import type { TenantLimits } from "../../shared/contracts/tenants.ts";
import { pause } from "../platform/clock.ts";
import { setNewest } from "../platform/newest.ts";
import { objectNamed } from "../platform/objects.ts";
import type { Region } from "../platform/region.ts";
import { type Consumption, type Settlement, tokensOf } from "./consumption.ts";
import { type Claim, LedgerStore, type UsageRow } from "./ledger-store.ts";
import { type Decision, type Quota, settledMs } from "./quota.ts";

const commitMs = 20;
const maxCommitMs = 1000;
/** Maximum of ids in `#recent`. An id takes about 100 bytes. A lost cell is replaced within seconds, so few ids are needed. */
const maxRecent = 4096;

export class Ledger extends DurableObject<Env> {
  now = () => Date.now();
  quota: Quota;
  readonly #store: LedgerStore;
  /** Latest settled requests of a tenant without limits, because a second cell may settle a request again. */
  readonly #recent = new Map<string, null>();
  #commit: Promise<void> | null = null;
  #settledMs = Number.NEGATIVE_INFINITY;
  #failedCommits = 0;

  constructor(state: DurableObjectState, env: Env) {
    super(state, env);
    this.#store = new LedgerStore(state.storage);
    this.quota = this.#store.quota(this.now());
  }

  /** Admits a request and reserves `tokens`. Without `tokens`, a call of `reserve` must follow. */
  admit(id: string, limits: TenantLimits, tokens?: number): Decision {
    const admitted = this.quota.admit(id, limits, this.now());
    if (admitted.refusal) return admitted;
    this.#commitSoon().catch(() => undefined);
    if (tokens === undefined) return admitted;
    const decision = this.quota.reserve(id, tokens, limits, this.now());
    // The refused request still counts in the requests per minute, but not as running.
    if (decision.refusal) this.#settle(id, []);
    return { ...decision, isOfTokens: true };
  }

  reserve(id: string, tokens: number, limits: TenantLimits): Decision {
    const decision = this.quota.reserve(id, tokens, limits, this.now());
    if (!decision.refusal) this.#commitSoon().catch(() => undefined);
    return decision;
  }

  renew(id: string): boolean {
    const isOpen = this.quota.renew(id, this.now());
    this.#commitSoon().catch(() => undefined);
    return isOpen;
  }

  /**
   * Settles requests, each at most once. Drops requests that began before an erasure. Resolves to the charge, once it is written;
   * under an idempotency key, only to what exceeds earlier charges.
   * Ids of requests with a limit or an idempotency key are stored. For other requests only `group`, the id of this call, is stored, so that
   * busy tenants do not fill the ledger.
   */
  async settleAll(group: string, settlements: readonly Settlement[]): Promise<Consumption[]> {
    const charged: Consumption[] = [];
    const merged: Consumption[] = [];
    for (const { request, consumed } of settlements) {
      const { requestId, beganMs, isLimited, idempotencyKey } = request;
      if (this.#wasErasedAfter(beganMs) && !this.quota.isOpen(requestId)) continue;
      if (isLimited || idempotencyKey) charged.push(...this.#settle(requestId, consumed, idempotencyKey));
      else if (consumed.length > 0 && !this.#recent.has(requestId)) {
        merged.push(...consumed);
        setNewest(this.#recent, requestId, null, maxRecent);
      }
    }
    if (merged.length > 0) charged.push(...this.#settle(group, merged));
    await this.#commitSettled();
    return charged;
  }

  #settle(id: string, consumed: readonly Consumption[], key?: string): readonly Consumption[] {
    if (this.quota.isSettled(id)) return [];
    const due = key === undefined ? consumed : this.#store.charge(key, consumed);
    this.quota.settle(id, tokensOf(consumed), this.now(), consumed.length > 0, tokensOf(due));
    const day = new Date(this.now()).toISOString().slice(0, 10);
    for (const one of due) this.#store.use({ day, ...one });
    return due;
  }

  claim(key: string, digest: string): Claim | null {
    return this.#store.claim(key, digest, this.now());
  }

  /** Deletes all counts. For `settledMs`, settlements of requests that began before the erasure are dropped. */
  erase(): void {
    this.#store.erase(this.now());
    this.quota = this.#store.quota(this.now());
  }

  #wasErasedAfter(beganMs: number): boolean {
    const { erasedMs } = this.#store;
    return erasedMs !== null && beganMs < erasedMs && Math.abs(this.now() - erasedMs) < settledMs;
  }

  usage(from: string, to: string): UsageRow[] {
    if (this.#store.hasUnwrittenUse) this.#write();
    return this.#store.usage(from, to);
  }

  /** Commits at once, because answers wait. Commits soon if the last such commit was less than `commitMs` ago, or a commit failed. */
  async #commitSettled(): Promise<void> {
    const sinceMs = Math.abs(this.now() - this.#settledMs);
    if (sinceMs < commitMs || this.#failedCommits > 0) return this.#commitSoon();
    this.#settledMs = this.now();
    this.#commitNow();
  }

  /** Resolves when all changes so far are written. Rejects if a commit fails; a later commit then writes the changes. */
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

/** A new ledger is created in `region`, where the request comes from. */
export function ledgerOf(
  ledgers: DurableObjectNamespace<Ledger>,
  tenant: string,
  region: Region | null = null,
): DurableObjectStub<Ledger> {
  return objectNamed(ledgers, tenant, region);
}
