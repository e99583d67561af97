/** The adapters of a sequence, pinned in the cache until it ends. */
import type { SequenceRequest } from "../../shared/contracts/inference.ts";
import type { AcquiredAdapter, AdapterCache } from "../adapters/generated/adapter-cache.ts";
import { ownAdapterId } from "../adapters/own/artifact.ts";

/**
 * Pins the adapters of a sequence's mixture, or else the one of its micro-batch (null: none). One that a mixture names twice is
 * returned and pinned twice. Rejects, with nothing pinned, when one of them cannot be made.
 */
export async function acquireAdapters(
  cache: Pick<AdapterCache, "acquire" | "release">,
  request: SequenceRequest,
  batchAdapterId: string | null,
): Promise<AcquiredAdapter[]> {
  const results = await Promise.allSettled(adapterIdsOf(request, batchAdapterId).map((id) => cache.acquire(id)));
  const acquired = results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  const failed = results.find((result) => result.status === "rejected");
  if (!failed) return acquired;
  releaseAdapters(cache, acquired);
  throw failed.reason;
}

export function releaseAdapters(cache: Pick<AdapterCache, "release">, acquired: readonly AcquiredAdapter[]): void {
  for (const { adapter } of acquired) cache.release(adapter);
}

function adapterIdsOf({ mixture, tenant }: SequenceRequest, batchAdapterId: string | null): string[] {
  if (!mixture) return batchAdapterId === null ? [] : [batchAdapterId];
  return mixture.adapters.map((one) => ("centroidId" in one ? one.centroidId : ownAdapterId(tenant, one.adapterHash)));
}
