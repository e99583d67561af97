/**
 * What sequences hold of adapters: each is pinned in the cache from its submission to its end, and those with directions of
 * their own have a pool slot while they run.
 */
import type { SequenceRequest } from "../../shared/contracts/inference.ts";
import { type ServiceError, toServiceError } from "../../shared/errors.ts";
import type { Adapter } from "../adapters/adapter.ts";
import type { AcquiredAdapter, AdapterCache } from "../adapters/adapter-cache.ts";
import { instantId } from "../adapters/instant/source.ts";
import { PoolSlots, type PoolStats } from "../adapters/pool-slots.ts";
import type { AdapterPool } from "../runtime/step.ts";
import { PoolShares } from "./pool-shares.ts";
import { needsPool } from "./refusals.ts";
import type { Sequence } from "./sequence.ts";

export class AdapterClaims {
  readonly #cache: Pick<AdapterCache, "acquire" | "release">;
  readonly #pool: PoolSlots | null;
  readonly #shares: PoolShares;
  /** Of a sequence that waits while its tenant pins no slot: the tenants that have passed it. */
  readonly #passedBy = new WeakMap<Sequence, Set<string>>();

  constructor(cache: Pick<AdapterCache, "acquire" | "release">, pool: AdapterPool | null) {
    this.#cache = cache;
    this.#pool = pool && new PoolSlots(pool);
    this.#shares = new PoolShares(pool?.slots ?? 0);
  }

  /** null where the graph has no pool. */
  get poolStats(): PoolStats | null {
    return this.#pool?.stats ?? null;
  }

  /**
   * Pins what each sequence of a micro-batch needs: the adapters of its mixture, or else the batch's (null: none). Tells
   * `done` of each, with its adapters or with why it cannot have them.
   */
  async acquire(
    sequences: readonly Sequence[],
    batchAdapterId: string | null,
    done: (sequence: Sequence, acquired: AcquiredAdapter[] | ServiceError) => void,
  ): Promise<void> {
    const users = new Map<string, number>();
    for (const { request } of sequences) {
      for (const id of adapterIdsOf(request, batchAdapterId)) users.set(id, (users.get(id) ?? 0) + 1);
    }
    const acquired = new Map<string, AcquiredAdapter>();
    const failures = new Map<string, ServiceError>();
    for (const [id, count] of users) {
      try {
        acquired.set(id, await this.#cache.acquire(id, count));
      } catch (error) {
        failures.set(id, toServiceError(error));
      }
    }
    for (const sequence of sequences) {
      const ids = adapterIdsOf(sequence.request, batchAdapterId);
      const had = ids.flatMap((id) => acquired.get(id) ?? []);
      const failure = ids.map((id) => failures.get(id)).find((error) => error !== undefined);
      if (failure || sequence.ended) this.#unpin(had);
      if (!sequence.ended) done(sequence, failure ?? had);
    }
  }

  /**
   * Claims pool slots for the sequences of one admission, asked in turn; PoolShares says how many a tenant may pin. A
   * sequence that gets none waits, and until it starts:
   * - later sequences of its tenant that need slots wait behind it, so the tenant's own traffic does not keep its slots;
   * - later sequences of other tenants that would pin more than their tenant's first slot wait, too;
   * - other later sequences pass it. While its tenant pins none, each tenant passes it once and then waits behind it.
   * So one that is first in turn waits until its tenant's running sequences have ended, then for those of others that run
   * and one more of each: with T tenants, T + 1 times the longest run at most. Who needs no slot never waits here.
   */
  slotClaims(): (sequence: Sequence) => boolean {
    const waiting: Sequence[] = [];
    return (sequence) => {
      const wanted = sequence.adapters.filter(({ adapter }) => adapter.directions);
      if (wanted.length === 0) return true;
      const { tenant } = sequence;
      if (waiting.some((one) => one.tenant === tenant)) return false;
      const hashes = new Set(wanted.map(({ adapter }) => adapter.hash));
      const slots = this.#pool?.stats.slots ?? 0;
      if (!this.#pool || hashes.size > this.#shares.most) {
        throw needsPool(wanted[0].adapter, { needed: hashes.size, slots, most: this.#shares.most });
      }
      const fit = this.#shares.fitOf(tenant, hashes);
      const mayPass = (one: Sequence) => {
        if (fit === "more") return false;
        return !this.#shares.pinsNone(one.tenant) || !this.#passedBy.get(one)?.has(tenant);
      };
      if (fit === "none" || !waiting.every(mayPass)) {
        waiting.push(sequence);
        return false;
      }
      for (const { adapter } of sequence.adapters) sequence.poolSlots.push(this.#takeSlot(tenant, adapter));
      for (const one of waiting) {
        // What passes while its tenant pins slots does not count.
        if (!this.#shares.pinsNone(one.tenant)) continue;
        this.#passedBy.set(one, (this.#passedBy.get(one) ?? new Set()).add(tenant));
      }
      return true;
    };
  }

  /** null for an adapter without directions. */
  #takeSlot(tenant: string, adapter: Adapter): number | null {
    if (!adapter.directions) return null;
    const slot = this.#pool?.take(adapter) ?? null;
    if (slot === null) throw new Error(`adapter ${adapter.hash} finds every pool slot pinned, against the shares`);
    this.#shares.pin(tenant, adapter.hash);
    return slot;
  }

  releaseSlots(sequence: Sequence): void {
    sequence.poolSlots.forEach((slot, j) => {
      if (slot === null) return;
      const { adapter } = sequence.adapters[j];
      this.#pool?.release(adapter);
      this.#shares.unpin(sequence.tenant, adapter.hash);
    });
    sequence.poolSlots = [];
  }

  /** A sequence has ended. */
  release(sequence: Sequence): void {
    this.releaseSlots(sequence);
    this.#unpin(sequence.adapters);
  }

  #unpin(acquired: readonly AcquiredAdapter[]): void {
    for (const { adapter } of acquired) this.#cache.release(adapter);
  }
}

/** Ids of the adapters of a request's distribution. */
function adapterIdsOf({ mixture, tenant }: SequenceRequest, batchAdapterId: string | null): string[] {
  if (!mixture) return batchAdapterId === null ? [] : [batchAdapterId];
  return mixture.adapters.map((one) => ("centroidId" in one ? one.centroidId : instantId(tenant, one.adapterHash)));
}
