/** Acquires what a sequence needs before it waits for a slot: adapters, memories and a grammar. */
import type { SequenceRequest } from "../../shared/contracts/inference.ts";
import { ServiceError } from "../../shared/errors.ts";
import { ownAdapterId } from "../adapters/own/artifact.ts";
import type { MemoryCache } from "../memory/memory-cache.ts";
import type { Grammars } from "./grammars.ts";
import type { Sequence } from "./sequence.ts";

/** Ids of the adapters that a sequence needs: its mixture's adapters or, without a mixture, its micro-batch's adapter. */
export function adapterIdsOf({ mixture, tenant }: SequenceRequest, batchAdapterId: string | null): string[] {
  if (!mixture) return batchAdapterId === null ? [] : [batchAdapterId];
  return mixture.adapters.map((one) => ("centroidId" in one ? one.centroidId : ownAdapterId(tenant, one.adapterHash)));
}

/** Opens a sequence's memories and, if the request wants passages, their passage indexes. Throws a ServiceError for a missing memory. */
export async function acquireMemories(
  sequence: Sequence,
  cache: MemoryCache | undefined,
  textPieceOf: (id: number) => Uint8Array,
): Promise<void> {
  for (const { hash } of sequence.request.memories ?? []) {
    if (!cache) throw new ServiceError("memory_not_found", `There is no memory ${hash}.`);
    const memory = await cache.acquire(sequence.tenant, hash);
    if (sequence.ended) return cache.release(memory);
    sequence.memories.push(memory);
    if (sequence.awaitsPassages) sequence.indexes.push(await memory.search.passages(textPieceOf));
  }
}

/** Opens the grammar that a sequence's text must follow, if there is one. `changed` is as in Grammars.open. Throws a ServiceError. */
export async function acquireGrammar(
  sequence: Sequence,
  grammars: Grammars | undefined,
  changed: (error: ServiceError | null) => void,
): Promise<void> {
  const { tenant, request, sampling } = sequence;
  const form = sampling.text_form;
  if (form === null || sequence.finish !== null) return;
  if (!grammars) throw new ServiceError("invalid_request", "This engine holds no text to a schema.");
  const row = await grammars.open({ tenant, form, tokens: request.continuedIds }, changed);
  if (sequence.ended) row.close();
  else sequence.grammar = row;
}
