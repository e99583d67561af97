/** Reads a kind's texts by every model and memory. */
import { positionsOfEvidence } from "../../../../shared/math/evidence.ts";
import { defaultMemoryRule } from "../../../../shared/math/memory.ts";
import type { FitSession } from "../../../runtime/fit-session.ts";
import type { ServedBank } from "../../../training/bank/served-bank.ts";
import { type Mixed, type OwnAdapter, ownChange } from "../plans.ts";
import type { Found, ModelReading, Reader } from "../reader.ts";
import { mixtureOf } from "../scores.ts";
import type { Text } from "../texts.ts";
import { ownAdapterOf } from "./adapter.ts";
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
  fits: FitSession;
  cache: StateCache;
  signal?: AbortSignal | undefined;
}

/** `foreign`: the kind whose known text is the foreign memory. */
export async function readKind(
  kind: Kind,
  foreign: Kind,
  options: ReadOptions,
): Promise<{ readings: Readings; hasAdapter: boolean }> {
  const { reader, search, cache, signal } = options;
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
  const adapter = await ownAdapterOf(kind.known, known, options);
  const evident = rowsOf(kind.texts, texts, D, positionsOfEvidence(promptTokens)).states;
  const mixtures = await mixturesOf(kind.texts, texts.hidden, adapter, await search.search(evident, own), options);
  const read = async (
    { hidden }: TextStates,
    of: keyof typeof mixtures,
    memories: Record<string, Found>,
  ): Promise<ModelReading> => {
    const size = hidden.length / kind.texts.length;
    const gates = new Float32Array(targets.length * mixtures[of][0].gates.length);
    const change = new Float32Array(hidden.length);
    const perText = readPositions.length * mixtures[of][0].gates.length;
    for (const [s, mixed] of mixtures[of].entries()) {
      for (let at = s * perText; at < (s + 1) * perText; at += mixed.gates.length) gates.set(mixed.gates, at);
      change.set(ownChange(mixed.own, adapter, hidden.subarray(s * size, (s + 1) * size)), s * size);
    }
    return reader.read(hidden, gates, targets, memories, change);
  };
  const readings = {
    base: await read(rows, "base", found),
    static: await read(rows, "static", {}),
    mixture: await read(rows, "mixture", found),
    adapter: await read(rows, "adapter", {}),
    auto: await read(rows, "auto", {}),
    both: await read(rows, "both", found),
    passage: await read(passage, "base", ownFound),
  };
  return { readings, hasAdapter: adapter !== null };
}

/** What adapts each text, by model. `found`: in the memory, at the evidence of each text. */
async function mixturesOf(
  texts: readonly Text[],
  hidden: Float32Array,
  adapter: OwnAdapter | null,
  { cosines, nextIds }: Found,
  { reader, served }: ReadOptions,
): Promise<Record<Exclude<Model, "passage">, Mixed[]>> {
  const { staticGates } = served.adapters.network;
  const { memory: rule = defaultMemoryRule } = served.manifest;
  const mixtures = (own: OwnAdapter | null, isBesideMemory = false) =>
    Promise.all(
      texts.map(({ ids }, s) => {
        const ofText = <T extends Float32Array | Int32Array>(all: T) =>
          all.subarray((s * all.length) / texts.length, ((s + 1) * all.length) / texts.length) as T;
        const memory = isBesideMemory ? { found: { cosines: ofText(cosines), nextIds: ofText(nextIds) }, rule } : null;
        return mixtureOf(reader, served, ids, ofText(hidden), promptTokens, own, memory);
      }),
    );
  const all = (mixed: Mixed) => texts.map(() => mixed);
  const mixture = await mixtures(null);
  return {
    base: all({ gates: new Float32Array(staticGates.length), own: 0 }),
    static: all({ gates: staticGates, own: 0 }),
    ...{ mixture, auto: adapter ? await mixtures(adapter) : mixture },
    both: adapter ? await mixtures(adapter, true) : mixture,
    adapter: adapter
      ? all({ gates: staticGates, own: 1 })
      : all({ gates: new Float32Array(staticGates.length), own: 0 }),
  };
}

/** Rows of positions. What a text has before its last 160 tokens is a passage. */
function rowsOf(
  texts: readonly Text[],
  { states, hidden }: TextStates,
  D: number,
  positions: readonly number[] = readPositions,
): TextStates {
  const P = positions.length;
  const rows = { states: new Float32Array(texts.length * P * D), hidden: new Float32Array(texts.length * P * D) };
  let end = 0;
  for (const [s, { ids }] of texts.entries()) {
    end += ids.length;
    for (const [i, t] of positions.entries()) {
      const from = (end - promptTokens - scoredTokens + t) * D;
      rows.states.set(normalised(states.subarray(from, from + D)), (s * P + i) * D);
      rows.hidden.set(hidden.subarray(from, from + D), (s * P + i) * D);
    }
  }
  return rows;
}
