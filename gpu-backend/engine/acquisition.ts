/** A sequence acquires its adapters, memories and grammar before it waits for a slot. */
import type { SequenceRequest } from "../../shared/contracts/inference.ts";
import { ServiceError } from "../../shared/errors.ts";
import { ownAdapterId } from "../adapters/own/artifact.ts";
import type { EngineParts } from "./engine-parts.ts";
import type { Grammars } from "./grammars.ts";
import type { Sequence } from "./sequence.ts";

/** Adapters of the sequence's mixture. Without a mixture, the micro-batch's adapter. */
export function adapterIdsOf({ mixture, tenant }: SequenceRequest, batchAdapterId: string | null): string[] {
  if (!mixture) return batchAdapterId === null ? [] : [batchAdapterId];
  return mixture.adapters.map((one) => ("centroidId" in one ? one.centroidId : ownAdapterId(tenant, one.adapterHash)));
}

/** Opens the passage indexes of the tenant's memories if the request wants passages. Throws a ServiceError for a missing memory. */
export async function acquireMemories(
  sequence: Sequence,
  memories: EngineParts["memories"],
  textPieceOf: (id: number) => Uint8Array,
): Promise<void> {
  for (const read of sequence.request.memories ?? []) {
    const isOwn = "hash" in read;
    const memory = await (isOwn
      ? memories?.cache.acquire(sequence.tenant, read.hash)
      : memories?.ofCentroids?.acquire(read.centroidId));
    if (!memories || !memory) throw new ServiceError("memory_not_found", "This engine keeps no such memories.");
    if (sequence.ended) return memories.cache.release(memory);
    sequence.memories.push(memory);
    if (isOwn && sequence.awaitsPassages) sequence.indexes.push(await memory.search.passages(textPieceOf));
  }
}

/** `changed` is passed to Grammars.open. Throws a ServiceError. */
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
