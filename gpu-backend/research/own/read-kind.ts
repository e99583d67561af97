/** Runs a kind's texts through models and memories. Shapes: S texts, T tokens, P positions (`readPositions`), D hidden. */
import { joinArrays } from "../../../shared/bytes.ts";
import { dot, promptEmbedding } from "../../../shared/math/assignment.ts";
import { positionsOfEvidence } from "../../../shared/math/evidence.ts";
import { defaultMemoryRule, type Neighbours } from "../../../shared/math/memory.ts";
import { fitOwnAdapter } from "../../adapters/own/fit.ts";
import { type FitSession, openFitSession } from "../../runtime/fit-session.ts";
import type { ServedBank } from "../../training/bank/served-bank.ts";
import type { TrainingBase } from "../../training/base.ts";
import { unitVector } from "../../training/clustering/k-means.ts";
import { type Stated, statesOf } from "../../training/hidden-states.ts";
import { type Known, memoryOf, openSearch } from "../../training/memory-scores.ts";
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

export type StatedText = Stated<Text>;

/** A text's passage is the excerpt whose mean hidden state is nearest to that of the text's prompt. */
function afterPassages(
  texts: readonly Omit<StatedText, "states">[],
  excerpts: readonly Omit<StatedText, "states">[],
  D: number,
): Text[] {
  const passages = excerpts.map(({ ids, hidden }) => meanDirection(hidden.subarray(0, ids.length * D), D));
  return texts.map(({ document, ids, hidden }) => {
    const own = meanDirection(hidden.subarray(0, promptTokens * D), D);
    const cosines = passages.map((passage) => dot(passage, own));
    return { document, ids: [...excerpts[cosines.indexOf(Math.max(...cosines))].ids, ...ids] };
  });
}

/** The mean of rows [T, D], scaled to length 1, [D]. */
function meanDirection(rows: Float32Array, D: number): Float32Array {
  const sum = new Float64Array(D);
  for (let i = 0; i < rows.length; i++) sum[i % D] += rows[i];
  return unitVector(sum);
}

/** Own adapters are fitted above the static adapter, as on a backend. */
export function openFits(base: TrainingBase, { adapters }: ServedBank, threads: number): Promise<FitSession> {
  const fixed = { bank: adapters.bank, gates: adapters.network.staticGates };
  return openFitSession(base.tokenEmbedding, base.config.hiddenSize, fixed, threads);
}

/** Each excerpt is an example for the fit. Returns null if the fit keeps no adapter. */
async function ownAdapterOf(
  excerpts: readonly StatedText[],
  fits: FitSession,
  { manifest, table }: ServedBank,
): Promise<OwnAdapter | null> {
  const examples = excerpts.map(({ ids, hidden }) => ({
    hidden: hidden.subarray(0, (ids.length - 1) * fits.hiddenSize),
    targets: Int32Array.from(ids.slice(1)),
  }));
  const { delta } = await fitOwnAdapter(examples, null, fits);
  if (!delta) return null;
  const sum = new Float32Array(table.dimensions);
  for (const { ids } of excerpts) {
    promptEmbedding(ids.slice(0, manifest.embedding.prefixTokens), table).forEach((value, p) => {
      sum[p] += value;
    });
  }
  return { delta, centroid: unitVector(sum) };
}

type ReadOptions = Omit<OpenArtifacts, "release"> & { fits: FitSession; threads: number };

/** `known` are excerpts of the kind, `foreign` excerpts of another kind. Both become memories. */
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
  /** `positions` count from the start of the text's last 160 tokens, because a passage may come before these. */
  const rowsOf = (of: readonly StatedText[], what: "states" | "hidden", positions: readonly number[] = readPositions) =>
    of.flatMap((text) => {
      const first = text.ids.length - promptTokens - scoredTokens;
      return positions.map((t) => text[what].subarray((first + t) * D, (first + t + 1) * D));
    });
  const search = async (known: Known, ...queries: Float32Array[][]): Promise<Neighbours[][]> => {
    const { neighbours } = defaultMemoryRule;
    const opened = await openSearch(known, { hiddenSize: D, neighbours, threads });
    const found: Neighbours[][] = [];
    for (const states of queries) found.push(await opened.nearest(states));
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
