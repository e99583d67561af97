/** What a sequence needs before it waits for a slot: its adapters; its memories and its grammar, which it holds until it ends. */
import type { SequenceRequest } from "../../shared/contracts/inference.ts";
import { ServiceError } from "../../shared/errors.ts";
import { ownAdapterId } from "../adapters/own/artifact.ts";
import type { MemoryCache } from "../memory/memory-cache.ts";
import type { Grammars } from "./grammars.ts";
import type { Sequence } from "./sequence.ts";

/** Ids of the adapters that a sequence needs: those of its mixture, else the micro-batch's one, if any. */
export function adapterIdsOf({ mixture, tenant }: SequenceRequest, batchAdapterId: string | null): string[] {
  if (!mixture) return batchAdapterId === null ? [] : [batchAdapterId];
  return mixture.adapters.map((one) => ("centroidId" in one ? one.centroidId : ownAdapterId(tenant, one.adapterHash)));
}

/** Hashes of the tenant's own memories. */
export function ownMemoriesOf({ memories = [] }: SequenceRequest): string[] {
  return memories.flatMap((one) => ("hash" in one ? [one.hash] : []));
}

/**
 * Gives a sequence its memories, and their passages if it wants some in its prompt; only its own tenant's are found. Throws a
 * ServiceError for one that cannot be had.
 */
export async function acquireMemories(
  sequence: Sequence,
  cache: MemoryCache | undefined,
  textPieceOf: (id: number) => Uint8Array,
): Promise<void> {
  for (const one of sequence.request.memories ?? []) {
    const name = "hash" in one ? one.hash : one.centroidId;
    if (!cache || !("hash" in one)) throw new ServiceError("memory_not_found", `There is no memory ${name}.`);
    const memory = await cache.acquire(sequence.tenant, one.hash);
    if (sequence.ended) return cache.release(memory);
    sequence.memories.push(memory);
    if (sequence.awaitsPassages) sequence.indexes.push(await memory.search.passages(textPieceOf));
  }
}

/**
 * Opens the grammar of a sequence that is held to a form; `changed` is that of Grammars.open. Throws a ServiceError for a form that
 * has none.
 */
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
