/** Searches memories, and weighs each memory's brake, a factor of its weight (shared/math/memory.ts). */
import type { ServiceError } from "../../shared/errors.ts";
import { positionsOfEvidence } from "../../shared/math/evidence.ts";
import { brakePositions, type MemoryEvidence, type MemoryRule, weighBrakes } from "../../shared/math/memory.ts";
import type { KvPosition, KvStore, Pass, Runner } from "../kv/runner.ts";
import type { OpenMemory } from "../memory/memory-cache.ts";
import { type InsertedPassages, meanOfStates, retrievePassages } from "../memory/retrieval.ts";
import type { Head } from "./head-rows.ts";
import { greatestOf, type MemorySays, saysOf, weightOf } from "./memory-mixing.ts";
import { scorePrompt } from "./pass.ts";
import { notFinite } from "./refusals.ts";
import { logprobOfTarget } from "./sampler.ts";
import type { Sequence } from "./sequence.ts";

/** Predictions for each head whose sequence reads memories, in the order of the sequence's memories. */
export async function memoriesOfHeads(
  heads: readonly Head[],
  states: Pass["states"],
  { kv, rule }: { kv: KvStore; rule: MemoryRule },
): Promise<Map<Head, MemorySays[]>> {
  const readers = heads.filter(({ sequence, readsMemories }) => readsMemories && !sequence.ended);
  const asked = readers.map(({ sequence, hiddenRow }) => {
    const { kv: row, position } = states[hiddenRow];
    return { memories: sequence.memories, kv: row, position };
  });
  const says = await searchAll(asked, kv, rule);
  return new Map(readers.map((head, i) => [head, says[i]]));
}

/** Returns an error if a probability is not finite. */
export async function chooseBrakes(
  sequence: Sequence,
  runner: Pick<Runner, "run" | "gates" | "kv">,
  rule: MemoryRule,
  searched: Searched,
): Promise<ServiceError | null> {
  const positions = positionsOfBrakes(sequence);
  const results = (await scorePrompt(sequence, positions, [sequence.answering], runner)).flat();
  const says = await memoriesAt(sequence, positions, { kv: runner.kv, rule, searched });
  const model = results.map((result) => Math.exp(logprobOfTarget(result)));
  if (!model.every(Number.isFinite)) return notFinite("the probability of a token of its prompt");
  const ofTokens = results.map((result, x) => says(x, greatestOf(result)));
  const evidence = sequence.memories.map((_, m) => ofTokens.map((ofMemories) => ofMemories[m]));
  sequence.brakes = weighBrakes(rule, model, evidence);
  return null;
}

/** The positions of a prompt whose next tokens weigh the brakes. */
export function positionsOfBrakes({ evidenceTokens: { tokens, spans } }: Sequence): number[] {
  return positionsOfEvidence(tokens, spans, brakePositions);
}

/** Positions whose hidden states are the query in a search for passages. */
export function queryOf({ row, request }: Sequence): KvPosition[] {
  const [start, end] = request.retrieval!.query;
  return Array.from({ length: end - start }, (_, i) => ({ kv: row, position: start + i }));
}

/** Prompt, passages and the longest answer fit into the context together. */
export function passagesFor(
  { request, memories, indexes }: Sequence,
  query: readonly Float32Array[],
  contextTokens: number,
): InsertedPassages {
  const { promptIds, maxTokens } = request;
  const retrieval = request.retrieval!;
  const indexed = indexes.map((index, m) => ({ memory: memories[m].search.memory, index }));
  const room = Math.min(retrieval.tokens, contextTokens - promptIds.length - maxTokens);
  return retrievePassages(indexed, meanOfStates(query), retrieval, room);
}

/** What a sequence's memories predict, by position. So a prompt's positions are searched once for its mixture and its brakes. */
export type Searched = Map<number, MemorySays[]>;

/** The returned function gives the memories' evidence at `positions[x]`. It takes x and the model's greatest probability there. */
export async function memoriesAt(
  { ids, memories, row }: Sequence,
  positions: readonly number[],
  { kv, rule, searched }: { kv: Pick<KvStore, "states">; rule: MemoryRule; searched: Searched },
): Promise<(x: number, greatest: number) => MemoryEvidence[]> {
  const missing = positions.filter((position) => !searched.has(position));
  if (missing.length > 0) {
    const asked = missing.map((position) => ({ memories, kv: row, position }));
    const says = await searchAll(asked, kv, rule);
    for (const [i, position] of missing.entries()) searched.set(position, says[i]);
  }
  return (x, greatest) =>
    searched.get(positions[x])!.map((one) => ({
      weight: weightOf(one, greatest, rule),
      probability: one.probabilities.get(ids[positions[x] + 1]) ?? 0,
    }));
}

/** Searches each memory once, with the states of all positions that need the memory. */
async function searchAll(
  asked: readonly (KvPosition & { memories: readonly OpenMemory[] })[],
  kv: Pick<KvStore, "states">,
  rule: MemoryRule,
): Promise<MemorySays[][]> {
  const states = await kv.states(asked);
  const answers = asked.map(({ memories }) => new Array<MemorySays>(memories.length));
  const askers = new Map<OpenMemory, { s: number; m: number }[]>();
  for (const [s, { memories }] of asked.entries()) {
    for (const [m, memory] of memories.entries()) {
      const own = askers.get(memory);
      if (own) own.push({ s, m });
      else askers.set(memory, [{ s, m }]);
    }
  }
  for (const [{ search }, own] of askers) {
    const found = await search.nearest(own.map(({ s }) => states[s]));
    for (const [i, { s, m }] of own.entries()) answers[s][m] = saysOf(found[i], rule);
  }
  return answers;
}
