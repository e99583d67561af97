/**
 * The Durable Object that counts a tenant's use and admits its requests. It decides in RAM and writes its changes in one commit every
 * `commitMs`, so that no request waits for a disk before its first token. If the object is lost, uncommitted reservations are lost, but no
 * use: an answer ends only after its use is committed.
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

/** Minimum interval between commits, in milliseconds. */
const commitMs = 20;
/** Longest pause before a failed commit is tried again, in milliseconds. */
const maxCommitMs = 1000;
/** Maximum of ids in `#recent`. So many suffice, because a lost cell is replaced within seconds. An id takes about 100 bytes. */
const maxRecent = 4096;

export class Ledger extends DurableObject<Env> {
  /** The clock. A test may set another one. */
  now = () => Date.now();
  quota: Quota;
  readonly #store: LedgerStore;
  /** Ids of the latest settled requests of a tenant without limits. */
  readonly #recent = new Map<string, null>();
  #commit: Promise<void> | null = null;
  #settledMs = Number.NEGATIVE_INFINITY;
  #failedCommits = 0;

  constructor(state: DurableObjectState, env: Env) {
    super(state, env);
    this.#store = new LedgerStore(state.storage);
    this.quota = this.#store.quota(this.now());
  }

  /** Admits a request and reserves `tokens`. If `tokens` is absent, a call of `reserve` must follow. */
  admit(id: string, limits: TenantLimits, tokens?: number): Decision {
    const admitted = this.quota.admit(id, limits, this.now());
    if (admitted.refusal) return admitted;
    this.#commitSoon().catch(() => undefined);
    if (tokens === undefined) return admitted;
    const decision = this.quota.reserve(id, tokens, limits, this.now());
    // The refused request still counts in the requests per minute, but no longer as a running one.
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
   * Settles requests; drops requests that began before an erasure. The use of a request is counted once, however often it is settled. For
   * this, the ids of requests with a limit or an idempotency key are stored. For other requests only `group`, the id of this call, is
   * stored, so that busy tenants without limits do not fill the ledger; the ids of these requests stay in RAM, because a second cell may
   * settle a request again. Resolves to what was charged, once it is written; under an idempotency key, only what exceeds earlier charges.
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

  /** Deletes all counts. For `settledMs` from now, settlements of requests that began before the erasure are dropped. */
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

  /** Commits at once, because answers wait for it; soon, if the last such commit was less than `commitMs` ago or a commit failed. */
  async #commitSettled(): Promise<void> {
    const sinceMs = Math.abs(this.now() - this.#settledMs);
    if (sinceMs < commitMs || this.#failedCommits > 0) return this.#commitSoon();
    this.#settledMs = this.now();
    this.#commitNow();
  }

  /** Resolves when all changes up to now are written. Rejects if a commit fails; the changes are then written by a later commit. */
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

/** A tenant's ledger. If there is none yet, it is created in `region`, where the request comes from. */
export function ledgerOf(
  ledgers: DurableObjectNamespace<Ledger>,
  tenant: string,
  region: Region | null = null,
): DurableObjectStub<Ledger> {
  return objectNamed(ledgers, tenant, region);
}
