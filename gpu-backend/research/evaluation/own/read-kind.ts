/** Reads a kind's texts by every model and memory. */
import type { ServedBank } from "../../../training/bank/served-bank.ts";
import type { Found, ModelReading, Reader } from "../reader.ts";
import { gatesOf } from "../scores.ts";
import type { Text } from "../texts.ts";
import type { Model } from "./data.ts";
import {
  comparedSize,
  firstTokens,
  type Kind,
  knownSizes,
  promptTokens,
  readPositions,
  scoredTokens,
  targetsOf,
} from "./kinds.ts";
import { afterPassages, firstKeys, memoryOf } from "./known.ts";
import type { MemorySearch } from "./search.ts";
import { normalised, type StateCache, statesOf, type TextStates } from "./states.ts";

export const memoryNames = { own: (tokens: number) => `own ${tokens}`, foreign: "foreign" } as const;

/** What models say at the positions that are read, [S × P], and memories beside them, by their names. */
export type Readings = Record<Model, ModelReading>;

export interface ReadOptions {
  reader: Reader;
  search: MemorySearch;
  served: ServedBank;
  cache: StateCache;
  signal?: AbortSignal | undefined;
}

/** `foreign`: the kind whose known text is the foreign memory. */
export async function readKind(kind: Kind, foreign: Kind, options: ReadOptions): Promise<Readings> {
  const { reader, search, served, cache, signal } = options;
  const D = cache.hiddenSize;
  const size = comparedSize(kind.group);
  const known = await statesOf(kind.known, cache, signal);
  const own = memoryOf(kind.known, known, D);
  const foreignKnown = memoryOf(foreign.known, await statesOf(foreign.known, cache, signal), D);
  const texts = await statesOf(kind.texts, cache, signal);
  const rows = rowsOf(kind.texts, texts, D);
  const found: Record<string, Found> = {
    [memoryNames.foreign]: await search.search(rows.states, firstKeys(foreignKnown, foreign.known, size)),
  };
  for (const tokens of knownSizes[kind.group]) {
    found[memoryNames.own(tokens)] = await search.search(rows.states, firstKeys(own, kind.known, tokens));
  }

  const after = afterPassages(kind.texts, texts.hidden, firstTokens(kind.known, size), known.hidden, D);
  const passage = rowsOf(after, await statesOf(after, cache, signal), D);
  const ownFound = { [memoryNames.own(size)]: await search.search(passage.states, own) };

  const targets = targetsOf(kind.texts);
  const gates = await gatesOfRows(kind.texts, texts.hidden, reader, served);
  const read = (hidden: Float32Array, of: keyof typeof gates, memories: Record<string, Found>): Promise<ModelReading> =>
    reader.read(hidden, gates[of], targets, memories);
  return {
    base: await read(rows.hidden, "base", found),
    static: await read(rows.hidden, "static", {}),
    mixture: await read(rows.hidden, "mixture", found),
    passage: await read(passage.hidden, "base", ownFound),
  };
}

/** Gates of every position that is read, [S × P, Q], by model. */
async function gatesOfRows(texts: readonly Text[], hidden: Float32Array, reader: Reader, served: ServedBank) {
  const [P, Q] = [readPositions.length, served.adapters.bank.gates];
  const none = () => new Float32Array(texts.length * P * Q);
  const gates = { base: none(), static: none(), mixture: none() };
  const size = hidden.length / texts.length;
  for (const [s, { ids }] of texts.entries()) {
    const own = hidden.subarray(s * size, (s + 1) * size);
    const chosen = await gatesOf(reader, served, ids, own, promptTokens);
    for (const model of ["static", "mixture"] as const) {
      for (let i = 0; i < P; i++) gates[model].set(chosen[model], (s * P + i) * Q);
    }
  }
  return gates;
}

/** Rows of the positions that are read. What a text has before its last 160 tokens is a passage. */
function rowsOf(texts: readonly Text[], { states, hidden }: TextStates, D: number): TextStates {
  const P = readPositions.length;
  const rows = { states: new Float32Array(texts.length * P * D), hidden: new Float32Array(texts.length * P * D) };
  let end = 0;
  for (const [s, { ids }] of texts.entries()) {
    end += ids.length;
    for (const [i, t] of readPositions.entries()) {
      const from = (end - promptTokens - scoredTokens + t) * D;
      rows.states.set(normalised(states.subarray(from, from + D)), (s * P + i) * D);
      rows.hidden.set(hidden.subarray(from, from + D), (s * P + i) * D);
    }
  }
  return rows;
}
