/** Finds passages for a prompt. The result depends only on the memories' bytes and the prompt. Shapes: P passages, D hidden. */
import { setImmediate } from "node:timers/promises";
import { limits } from "../../shared/contracts/limits.ts";
import type { Retrieval, RetrievedPassage } from "../../shared/contracts/retrieval.ts";
import { inverseLength, writeKey } from "./keys.ts";
import type { Memory } from "./memory.ts";

/** `limits.passageTokens` includes 16 tokens for the text around the passage. */
export const passageTokens = limits.passageTokens - 16;

/** After this many keys, in about 10 ms, other work of the thread may run. */
const keysAtOnce = 16_384;

interface Place {
  document: number;
  from: number;
  to: number;
}

export type PassageIndex = Awaited<ReturnType<typeof indexPassages>>;
export type InsertedPassages = ReturnType<typeof retrievePassages>;

/** Cuts documents at line ends if possible. A passage's key is the mean of its keys; all passages' keys are [P, D]. */
export async function indexPassages(memory: Memory, textPieceOf: (id: number) => Uint8Array) {
  const { keys, nextIds, documents } = memory;
  const D = nextIds.length > 0 ? keys.length / nextIds.length : 0;
  const places: Place[] = [];
  for (const document of documents.keys()) {
    const ids = idsOf(memory, document);
    // The last token has no key, so it is never a passage by itself.
    for (let from = 0; from < ids.length - 1; ) {
      const to = endOfPassage(ids, from, textPieceOf);
      places.push({ document, from, to });
      from = to;
    }
  }
  const vectors = new Int8Array(places.length * D);
  let read = 0;
  for (const [p, { document, from, to }] of places.entries()) {
    const first = firstKeyOf(memory, document);
    const mean = new Float32Array(D);
    const end = Math.min(first + to, documents[document].end);
    for (let at = (first + from) * D; at < end * D; at++) mean[at % D] += keys[at];
    writeKey(mean, vectors.subarray(p * D, (p + 1) * D));
    read += to - from;
    if (read < keysAtOnce) continue;
    read = 0;
    await setImmediate();
  }
  return { places, vectors };
}

/** The sum of states [D], each scaled to length 1. The mean has the same direction. */
export function meanOfStates(states: readonly Float32Array[]): Float32Array {
  const mean = new Float32Array(states[0].length);
  for (const state of states) {
    const factor = inverseLength(state);
    for (let d = 0; d < mean.length; d++) mean[d] += factor * state[d];
  }
  return mean;
}

/** Nearest first. The passages and the text around them have at most `room` tokens. */
export function retrievePassages(
  memories: readonly { memory: Memory; index: PassageIndex }[],
  query: Float32Array,
  { passages: count, prefixIds, separatorIds }: Retrieval,
  room: number,
) {
  const scale = inverseLength(query);
  const found = memories.flatMap(({ index }, m) =>
    index.places.map((place, p) => ({ m, place, similarity: scale * projectionOf(query, index.vectors, p) })),
  );
  // The sort is stable, so equally near passages stay in the order of memories and documents.
  found.sort((a, b) => b.similarity - a.similarity);
  const passages: RetrievedPassage[] = [];
  const ids: number[] = [];
  let left = room - prefixIds.length;
  for (const { m, place, similarity } of found.slice(0, count)) {
    const tokens = Math.min(place.to - place.from, left - separatorIds.length);
    if (tokens < 1) break;
    const { memory } = memories[m];
    const cut = { ...place, to: place.from + tokens };
    ids.push(...idsOf(memory, place.document).subarray(cut.from, cut.to), ...separatorIds);
    left -= tokens + separatorIds.length;
    passages.push({ memory: m, ...bytesOf(memory, cut), tokens, similarity });
  }
  return { ids: passages.length > 0 ? [...prefixIds, ...ids] : [], passages };
}

/** Ends after the last line end in the second half of `passageTokens`, or after `passageTokens`. */
function endOfPassage(ids: Int32Array, from: number, textPieceOf: (id: number) => Uint8Array): number {
  const longest = Math.min(ids.length, from + passageTokens);
  if (longest === ids.length) return longest;
  for (let to = longest; to > from + passageTokens / 2; to--) {
    if (textPieceOf(ids[to - 1]).includes(0x0a)) return to;
  }
  return longest;
}

function firstKeyOf({ documents }: Memory, document: number): number {
  return document > 0 ? documents[document - 1].end : 0;
}

function idsOf(memory: Memory, document: number): Int32Array {
  const { firstId, end } = memory.documents[document];
  const next = memory.nextIds.subarray(firstKeyOf(memory, document), end);
  const ids = new Int32Array(1 + next.length);
  ids[0] = firstId;
  ids.set(next, 1);
  return ids;
}

function bytesOf(memory: Memory, { document, from, to }: Place) {
  const before = firstKeyOf(memory, document) - 1;
  const start = from === 0 ? 0 : memory.starts[before + from];
  // The document's first token has no entry in `ends`, but ends where the second token starts.
  const end = to === 1 ? memory.starts[before + 1] : memory.ends[before + to - 1];
  return { document: memory.documents[document].name, start, end };
}

/** Dot product with vector p scaled to length 1. */
function projectionOf(query: Float32Array, vectors: Int8Array, p: number): number {
  const D = query.length;
  let [dot, squares] = [0, 0];
  for (let d = 0, at = p * D; d < D; d++, at++) {
    dot += query[d] * vectors[at];
    squares += vectors[at] ** 2;
  }
  return squares > 0 ? dot / Math.sqrt(squares) : 0;
}
