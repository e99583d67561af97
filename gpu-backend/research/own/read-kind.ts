/// <reference lib="esnext.float16" />
/** Reads a kind's texts by every model and memory. Shapes: S texts, T tokens of one, P positions of each that are read, D hidden. */
import { joinArrays } from "../../../shared/bytes.ts";
import { promptEmbedding } from "../../../shared/math/assignment.ts";
import { positionsOfEvidence } from "../../../shared/math/evidence.ts";
import { defaultMemoryRule, type Neighbours } from "../../../shared/math/memory.ts";
import { fitOwnAdapter } from "../../adapters/own/fit.ts";
import { writeKey } from "../../memory/keys.ts";
import { MemorySearch } from "../../memory/search.ts";
import { type FitSession, openFitSession } from "../../runtime/fit-session.ts";
import type { TrunkRunner } from "../../runtime/trunk-runner.ts";
import type { ServedBank } from "../../training/bank/served-bank.ts";
import type { TrainingBase } from "../../training/base.ts";
import { type Mixed, mixtureOf, type OwnAdapter, ownChange } from "../mixtures.ts";
import type { OpenArtifacts } from "../open-artifacts.ts";
import type { Text } from "../texts.ts";
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
import type { ModelReading, Readings } from "./score.ts";

export const memoryNames = { own: (tokens: number) => `own ${tokens}`, foreign: "foreign" } as const;

/**
 * A text and what the trunk makes of it, [T, D]: the states before the last feed-forward part, of length 1, which are keys and
 * queries of memories, and final hidden states. Both rounded to half precision, as training keeps hidden states.
 */
export interface StatedText extends Text {
  states: Float32Array;
  hidden: Float32Array;
}

/** Texts of one pass of the trunk. */
const textsPerPass = 8;

export async function statesOf(texts: readonly Text[], trunk: Pick<TrunkRunner, "states">): Promise<StatedText[]> {
  const stated: StatedText[] = [];
  for (let from = 0; from < texts.length; from += textsPerPass) {
    const pass = texts.slice(from, from + textsPerPass);
    const T = Math.max(...pass.map(({ ids }) => ids.length));
    const tokenIds = new Int32Array(pass.length * T); // right-padded
    for (const [s, { ids }] of pass.entries()) tokenIds.set(ids, s * T);
    const made = await trunk.states(tokenIds, pass.length, T);
    const D = made.hidden.length / tokenIds.length;
    for (const [s, text] of pass.entries()) {
      const rows = (all: Float32Array) => all.subarray(s * T * D, (s * T + text.ids.length) * D);
      const halves = new Float16Array(rows(made.states));
      for (let at = 0; at < halves.length; at += D) {
        halves.set(normalised(rows(made.states).subarray(at, at + D)), at);
      }
      stated.push({
        ...text,
        states: Float32Array.from(halves),
        hidden: Float32Array.from(new Float16Array(rows(made.hidden))),
      });
    }
  }
  return stated;
}

function normalised(vector: Float32Array): Float32Array {
  const length = Math.sqrt(vector.reduce((sum, x) => sum + x * x, 0));
  return vector.map((x) => x / length);
}

/** Keys [N, D] of a memory, and the token after each, [N]. */
export interface Known {
  keys: Int8Array;
  nextIds: Int32Array;
}

/** A memory of excerpts, which are documents by themselves. */
export function memoryOf(excerpts: readonly Pick<StatedText, "ids" | "states">[], D: number): Known {
  const nextIds = Int32Array.from(excerpts.flatMap(({ ids }) => ids.slice(1)));
  const keys = new Int8Array(nextIds.length * D);
  let at = 0;
  for (const { ids, states } of excerpts) {
    for (let t = 0; t < ids.length - 1; t++, at += D) {
      writeKey(states.subarray(t * D, (t + 1) * D), keys.subarray(at, at + D));
    }
  }
  return { keys, nextIds };
}

/** Each text after the excerpt whose mean hidden state is nearest to that of the text's prompt. */
export function afterPassages(
  texts: readonly Omit<StatedText, "states">[],
  excerpts: readonly Omit<StatedText, "states">[],
  D: number,
): Text[] {
  const passages = excerpts.map(({ ids, hidden }) => meanDirection(hidden.subarray(0, ids.length * D), D));
  return texts.map(({ document, ids, hidden }) => {
    const own = meanDirection(hidden.subarray(0, promptTokens * D), D);
    const cosines = passages.map((passage) => passage.reduce((sum, x, d) => sum + x * own[d], 0));
    return { document, ids: [...excerpts[cosines.indexOf(Math.max(...cosines))].ids, ...ids] };
  });
}

/** The mean of the rows, of length 1, [D]. */
function meanDirection(rows: Float32Array, D: number): Float64Array {
  const mean = new Float64Array(D);
  for (let i = 0; i < rows.length; i++) mean[i % D] += rows[i];
  const length = Math.hypot(...mean);
  return mean.map((x) => x / length);
}

/** Above the static adapter, as backends fit. */
export function openFits(base: TrainingBase, { adapters }: ServedBank, threads: number): Promise<FitSession> {
  const fixed = { bank: adapters.bank, gates: adapters.network.staticGates };
  return openFitSession(base.tokenEmbedding, base.config.hiddenSize, fixed, threads);
}

/** An own adapter of excerpts, each an example of which every token is learnt; null where the fit keeps none. */
async function ownAdapterOf(
  excerpts: readonly StatedText[],
  fits: FitSession,
  { manifest, table }: ServedBank,
): Promise<OwnAdapter | null> {
  const examples = excerpts.map(({ ids, hidden }) => ({
    hidden: hidden.subarray(0, (ids.length - 1) * fits.hiddenSize),
    targets: Int32Array.from(ids.slice(1)),
  }));
  const { delta } = await fitOwnAdapter(examples, null, fits, (_, work) => work());
  if (!delta) return null;
  const sum = new Float32Array(table.dimensions);
  for (const { ids } of excerpts) {
    promptEmbedding(ids.slice(0, manifest.embedding.prefixTokens), table).forEach((value, p) => {
      sum[p] += value;
    });
  }
  const length = Math.hypot(...sum);
  return { delta, centroid: sum.map((value) => value / length) };
}

export interface ReadOptions extends Pick<OpenArtifacts, "base" | "trunk" | "reader" | "served"> {
  fits: FitSession;
  threads: number;
}

/** `known`: the kind's excerpts; `foreign`: those of another kind. */
export async function readKind(
  kind: Kind,
  known: readonly StatedText[],
  foreign: readonly StatedText[],
  { base, trunk, reader, served, fits, threads }: ReadOptions,
): Promise<Readings> {
  const D = base.config.hiddenSize;
  const size = comparedSize(kind.group);
  const texts = await statesOf(kind.texts, trunk);
  const passages = await statesOf(afterPassages(texts, firstTokens(known, size), D), trunk);
  /** Of each text the rows [D] at some positions. What it has before its last 160 tokens is a passage. */
  const rowsOf = (of: readonly StatedText[], what: "states" | "hidden", positions: readonly number[] = readPositions) =>
    of.flatMap((text) => {
      const first = text.ids.length - promptTokens - scoredTokens;
      return positions.map((t) => text[what].subarray((first + t) * D, (first + t + 1) * D));
    });
  const search = async ({ keys, nextIds }: Known, ...queries: Float32Array[][]): Promise<Neighbours[][]> => {
    const none = { starts: new Int32Array(0), ends: new Int32Array(0), documents: [] };
    const { neighbours } = defaultMemoryRule;
    const opened = await MemorySearch.open({ keys, nextIds, ...none }, { hiddenSize: D, neighbours, threads });
    const found: Neighbours[][] = [];
    for (const states of queries) {
      found.push((await opened.nearest(states)).map(({ cosines, nextIds }) => ({ cosines, nextIds })));
    }
    await opened.release();
    return found;
  };

  const queries = rowsOf(texts, "states");
  const found: Record<string, Neighbours[]> = {};
  [found[memoryNames.foreign]] = await search(memoryOf(firstTokens(foreign, size), D), queries);
  for (const tokens of knownSizes[kind.group]) {
    [found[memoryNames.own(tokens)]] = await search(memoryOf(firstTokens(known, tokens), D), queries);
  }
  const evidence = positionsOfEvidence(promptTokens);
  const [ofPassages, evident] = await search(
    memoryOf(known, D),
    rowsOf(passages, "states"),
    rowsOf(texts, "states", evidence),
  );

  const adapter = await ownAdapterOf(known, fits, served);
  const { staticGates } = served.adapters.network;
  const { memory: rule = defaultMemoryRule } = served.manifest;
  const mixtures = (own: OwnAdapter | null, isBesideMemory = false) =>
    Promise.all(
      texts.map((text, s) => {
        const ofText = evident.slice(s * evidence.length, (s + 1) * evidence.length);
        const memory = isBesideMemory ? { found: ofText, rule } : null;
        return mixtureOf(reader, served, text, promptTokens, own, memory);
      }),
    );
  const all = (mixed: Mixed) => texts.map(() => mixed);
  const unadapted = all({ gates: new Float32Array(staticGates.length), own: 0 });
  const fixed = all({ gates: staticGates, own: 0 });
  const mixture = await mixtures(null);

  const targets = targetsOf(kind.texts);
  const read = async (
    of: readonly StatedText[],
    mixed: readonly Mixed[],
    memories: ModelReading["memories"],
  ): Promise<ModelReading> => {
    const rows = joinArrays(Float32Array, rowsOf(of, "hidden"));
    const gates = mixed.flatMap((own) => readPositions.map(() => own.gates));
    const size = rows.length / mixed.length;
    const changes = mixed.map(({ own }, s) => ownChange(own, adapter, rows.subarray(s * size, (s + 1) * size)));
    const lists = Object.values(memories);
    const others = [...targets.keys()].flatMap((n) => lists.map((list) => list[n].nextIds));
    const reading = await reader.read(rows, joinArrays(Float32Array, gates), targets, {
      change: joinArrays(Float32Array, changes),
      others: joinArrays(Int32Array, others),
    });
    return { ...reading, memories };
  };
  return {
    base: await read(texts, unadapted, found),
    static: await read(texts, fixed, {}),
    mixture: await read(texts, mixture, found),
    adapter: await read(texts, adapter ? all({ gates: staticGates, own: 1 }) : unadapted, {}),
    auto: await read(texts, adapter ? await mixtures(adapter) : mixture, {}),
    both: await read(texts, adapter ? await mixtures(adapter, true) : mixture, found),
    passage: await read(passages, unadapted, { [memoryNames.own(size)]: ofPassages }),
  };
}
