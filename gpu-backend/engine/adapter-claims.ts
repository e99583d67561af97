/** What sequences hold of adapters: each is pinned in the cache until its sequence ends. */
import type { SequenceRequest } from "../../shared/contracts/inference.ts";
import { type ServiceError, toServiceError } from "../../shared/errors.ts";
import type { AcquiredAdapter, AdapterCache } from "../adapters/generated/adapter-cache.ts";
import { ownAdapterId } from "../adapters/own/artifact.ts";
import type { Sequence } from "./sequence.ts";

/** What one sequence needs, by the adapters' ids. */
interface Claim {
  sequence: Sequence;
  ids: string[];
  isSettled: boolean;
}

export class AdapterClaims {
  readonly #cache: Pick<AdapterCache, "has" | "acquire" | "release">;

  constructor(cache: Pick<AdapterCache, "has" | "acquire" | "release">) {
    this.#cache = cache;
  }

  /**
   * Pins what each sequence of a micro-batch needs: the adapters of its mixture, or else the batch's (null: none). Tells
   * `done` of each once its own adapters are there, or one cannot be made: one whose adapters are cached waits for nobody.
   * Others wait in turn, those that lack fewest first, as adapters are made one after the other. Nothing more is made for one
   * that ends meanwhile; what it has stays pinned until what is being made is there.
   */
  async acquire(
    sequences: readonly Sequence[],
    batchAdapterId: string | null,
    done: (sequence: Sequence, acquired: AcquiredAdapter[] | ServiceError) => void,
  ): Promise<void> {
    const claims = sequences.map((sequence): Claim => {
      return { sequence, ids: adapterIdsOf(sequence.request, batchAdapterId), isSettled: false };
    });
    const found = new Map<string, AcquiredAdapter>();
    const settleIfReady = (claim: Claim, failure: ServiceError | null = null) => {
      const { sequence, ids } = claim;
      const acquired = ids.flatMap((id) => found.get(id) ?? []);
      if (!failure && !sequence.ended && acquired.length < ids.length) return;
      claim.isSettled = true;
      if (failure || sequence.ended) this.#unpin(acquired);
      if (!sequence.ended) done(sequence, failure ?? acquired);
    };
    for (const claim of claims) settleIfReady(claim);
    // A mixture may name an adapter twice, and then has it twice.
    const claimsOf = Map.groupBy(
      claims.flatMap((claim) => claim.ids.map((id) => ({ id, claim }))),
      ({ id }) => id,
    );
    const acquire = async (id: string) => {
      const waiting = claimsOf.get(id)!.filter(({ claim }) => !claim.isSettled);
      if (waiting.length === 0) return;
      let failure: ServiceError | null = null;
      try {
        const adapter = await this.#cache.acquire(id, waiting.length);
        found.set(id, adapter);
        for (const { claim } of waiting) if (claim.isSettled) this.#unpin([adapter]);
      } catch (error) {
        failure = toServiceError(error);
      }
      for (const { claim } of waiting) if (!claim.isSettled) settleIfReady(claim, failure);
    };
    const cached = new Set([...claimsOf.keys()].filter((id) => this.#cache.has(id)));
    const lacking = claims.map(({ ids }) => new Set(ids).difference(cached)).sort((a, b) => a.size - b.size);
    // All at once: none may be dropped for another's sake before its turn.
    await Promise.all([...cached].map(acquire));
    for (const id of new Set(lacking.flatMap((ids) => [...ids]))) {
      for (const claim of claims) if (claim.sequence.ended && !claim.isSettled) settleIfReady(claim);
      await acquire(id);
    }
  }

  /** A sequence has ended. */
  release(sequence: Sequence): void {
    this.#unpin(sequence.adapters);
  }

  #unpin(acquired: readonly AcquiredAdapter[]): void {
    for (const { adapter } of acquired) this.#cache.release(adapter);
  }
}

/** Ids of the adapters of a request's distribution. */
function adapterIdsOf({ mixture, tenant }: SequenceRequest, batchAdapterId: string | null): string[] {
  if (!mixture) return batchAdapterId === null ? [] : [batchAdapterId];
  return mixture.adapters.map((one) => ("centroidId" in one ? one.centroidId : ownAdapterId(tenant, one.adapterHash)));
}
