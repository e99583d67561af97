/**
 * What sequences hold of adapters: each is pinned in the cache from its submission to its end, and those with directions of
 * their own have a pool slot while they run.
 */
import type { SequenceRequest } from "../../shared/contracts/inference.ts";
import { type ServiceError, toServiceError } from "../../shared/errors.ts";
import type { AcquiredAdapter, AdapterCache } from "../adapters/adapter-cache.ts";
import { instantId } from "../adapters/instant/source.ts";
import { PoolSlots, type PoolStats } from "../adapters/pool-slots.ts";
import type { AdapterPool } from "../runtime/step.ts";
import { mostPoolSlots } from "./pool-shares.ts";
import { needsPool } from "./refusals.ts";
import type { Sequence } from "./sequence.ts";

export class AdapterClaims {
  readonly #cache: Pick<AdapterCache, "has" | "acquire" | "release">;
  readonly #pool: PoolSlots | null;

  constructor(cache: Pick<AdapterCache, "has" | "acquire" | "release">, pool: AdapterPool | null) {
    this.#cache = cache;
    this.#pool = pool && new PoolSlots(pool);
  }

  /** null where the graph has no pool. */
  get poolStats(): PoolStats | null {
    return this.#pool?.stats ?? null;
  }

  /**
   * Pins what each sequence of a micro-batch needs: the adapters of its mixture, or else the batch's (null: none). Tells
   * `done` of each as soon as its own adapters are there, or one cannot be made: it waits for none that only others need.
   * Those in the cache come first, then those to be made, one after the other in the order of `sequences`.
   */
  async acquire(
    sequences: readonly Sequence[],
    batchAdapterId: string | null,
    done: (sequence: Sequence, acquired: AcquiredAdapter[] | ServiceError) => void,
  ): Promise<void> {
    let waiting = sequences.map((sequence) => ({ sequence, ids: adapterIdsOf(sequence.request, batchAdapterId) }));
    const found = new Map<string, AcquiredAdapter>();
    const failures = new Map<string, ServiceError>();
    const settle = () => {
      waiting = waiting.filter(({ sequence, ids }) => {
        const acquired = ids.flatMap((id) => found.get(id) ?? []);
        const failure = ids.map((id) => failures.get(id)).find((error) => error !== undefined);
        if (!failure && !sequence.ended && acquired.length < ids.length) return true;
        if (failure || sequence.ended) this.#unpin(acquired);
        if (!sequence.ended) done(sequence, failure ?? acquired);
        return false;
      });
    };
    settle();
    const wanted = new Set(waiting.flatMap(({ ids }) => ids));
    for (const id of [...wanted].sort((a, b) => Number(this.#cache.has(b)) - Number(this.#cache.has(a)))) {
      const users = waiting.flatMap(({ ids }) => ids).filter((one) => one === id).length;
      if (users === 0) continue;
      try {
        found.set(id, await this.#cache.acquire(id, users));
      } catch (error) {
        failures.set(id, toServiceError(error));
      }
      settle();
    }
  }

  /** The error for a sequence whose adapters need more pool slots than its tenant may pin; null for others. */
  refusalOf({ adapters, poolAdapters }: Sequence): ServiceError | null {
    const needed = new Set(poolAdapters).size;
    const slots = this.#pool?.stats.slots ?? 0;
    const most = mostPoolSlots(slots);
    if (needed <= most) return null;
    return needsPool(adapters.find(({ adapter }) => adapter.directions)!.adapter, { needed, slots, most });
  }

  /** Gives a sequence its pool slots. The plan started it, so there is room. */
  takeSlots(sequence: Sequence): void {
    for (const { adapter } of sequence.adapters) {
      const slot = adapter.directions ? this.#pool!.take(adapter) : null;
      if (adapter.directions && slot === null) throw new Error(`adapter ${adapter.hash} finds every pool slot pinned`);
      sequence.poolSlots.push(slot);
    }
  }

  releaseSlots(sequence: Sequence): void {
    sequence.poolSlots.forEach((slot, j) => {
      if (slot === null) return;
      this.#pool?.release(sequence.adapters[j].adapter);
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
