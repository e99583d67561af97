/** Measures what documents as a memory gain, fits how memories count, and compares with what else could be done with the same text. */
import { join } from "node:path";
import { defaultMemoryRule, type MemoryRule } from "../../../../shared/math/memory.ts";
import { readLock } from "../../../training/corpus/lock.ts";
import type { Progress } from "../../../training/progress.ts";
import { rounded } from "../data.ts";
import { openArtifacts } from "../open-artifacts.ts";
import { averageOf } from "../statistics.ts";
import { openFits } from "./adapter.ts";
import { type Fit, groups, type OwnEvaluation } from "./data.ts";
import { fitWeights } from "./fit.ts";
import {
  comparedSize,
  evidencePositions,
  freshKinds,
  type Kind,
  knownSizes,
  lockedKinds,
  readPositions,
  targetsOf,
} from "./kinds.ts";
import { memoryNames, type Readings, readKind } from "./read-kind.ts";
import { type Method, type Observation, observationAt, scoreKind } from "./score.ts";
import { MemorySearch } from "./search.ts";
import { gainOver, meanOf, rowOf, type ScoredKind } from "./summary.ts";

export interface OwnOptions {
  /** Folder of the base, whose artifacts adapt it. */
  model: string;
  corpusFolder: string;
  /** Of each kind at most. */
  texts: number;
  threads: number;
  cacheDirectory: string;
}

/** θ that are tried. The one with the greatest gain on development kinds, each under the weights of the others, is the rule's. */
const thetas = [20, 40];

/** In which the base is measured. */
const format = "int8";

export async function evaluateOwn(
  { model, corpusFolder, texts, threads, cacheDirectory }: OwnOptions,
  progress: Progress,
  signal?: AbortSignal,
): Promise<OwnEvaluation> {
  const { lock, hash } = await readLock();
  const opened = await openArtifacts(model, join(model, "artifacts"), { threads, format });
  const { base, served, reader, trunk } = opened;
  const { hiddenSize } = base.config;
  const fits = await openFits(base, served, threads);
  const search = await MemorySearch.open(hiddenSize, defaultMemoryRule.neighbours, threads);
  try {
    const kinds = await lockedKinds(corpusFolder, base.tokenizer, texts);
    const read: ReadKind[] = [];
    progress.stage("kinds", kinds.length);
    const cache = { directory: cacheDirectory, key: `${base.weightsHash} ${format}`, hiddenSize, trunk };
    for (const kind of kinds) {
      const options = { reader, search, served, fits, cache, signal };
      read.push({ kind, ...(await readKind(kind, foreignTo(kind, kinds), options)) });
      progress.advance(read.length, kind.name);
    }
    const summary = summarise(read, base.tokenizer);
    return rounded({ model: served.manifest.model.name, lock: hash, fresh: freshKinds(lock.corpora), ...summary });
  } finally {
    await fits.release();
    await search.release();
    await opened.release();
  }
}

/** The next kind of the group: its known text is the foreign memory. */
function foreignTo(kind: Kind, kinds: readonly Kind[]): Kind {
  const own = kinds.filter(({ group }) => group === kind.group);
  return own[(own.indexOf(kind) + 1) % own.length];
}

export interface ReadKind {
  kind: Kind;
  readings: Readings;
  hasAdapter: boolean;
}

/** Fits the rule on the development kinds and measures all kinds. Pure. */
export function summarise(
  read: readonly ReadKind[],
  tokenizer: Parameters<typeof rowOf>[1],
): Pick<OwnEvaluation, "fits" | "rule" | "rows" | "means"> {
  const development = read.filter(({ kind }) => kind.group === "development");
  const tried = thetas.map((theta) => fitOn(development, { ...defaultMemoryRule, theta }));
  const size = memoryNames.own(comparedSize("development"));
  const best = tried.reduce((most, one) => (one.fit.gains[size].mean > most.fit.gains[size].mean ? one : most));
  const scored = [
    ...best.scored,
    ...read.filter(({ kind }) => kind.group === "fresh").map((one) => scoredKind(one, best.rule)),
  ];
  return {
    fits: tried.map(({ fit }) => fit),
    rule: best.rule,
    rows: scored.map((one) => rowOf(one, tokenizer)),
    means: groups.flatMap((group) => {
      const own = scored.filter(({ kind }) => kind.group === group);
      return own.length > 0 ? [meanOf(group, own, tokenizer)] : [];
    }),
  };
}

/** Fits a rule on all kinds, and scores each kind under the weights that the others give. */
function fitOn(kinds: readonly ReadKind[], start: MemoryRule): { fit: Fit; rule: MemoryRule; scored: ScoredKind[] } {
  const observed = kinds.map((kind) => observationsOf(kind, start));
  const fitted = (isUsed: (i: number) => boolean) => {
    const used = observed.filter((_, i) => isUsed(i));
    return fitWeights(
      start,
      used.flatMap(({ own }) => own),
      used.map(({ foreign }) => foreign),
    );
  };
  const scored = kinds.map((kind, left) =>
    scoredKind(
      kind,
      fitted((i) => i !== left),
    ),
  );
  const rule = fitted(() => true);
  const gains = Object.fromEntries(
    [...knownSizes.development.map(memoryNames.own), memoryNames.foreign].map((name) => [name, gainOver(scored, name)]),
  );
  return { fit: { theta: start.theta, weights: rule.weights, gains }, rule, scored };
}

/** Of the base and each memory of a kind, at the positions that are scored. */
function observationsOf(
  { kind, readings }: ReadKind,
  rule: MemoryRule,
): { own: Observation[][]; foreign: Observation[] } {
  const targets = targetsOf(kind.texts);
  const P = readPositions.length;
  const isScored = (at: number) => at % P >= evidencePositions.length;
  const { base } = readings;
  const of = (name: string) =>
    [...targets].flatMap((target, at) =>
      isScored(at) ? [observationAt(base, base.memories[name], target, at, rule).observation] : [],
    );
  return { own: knownSizes[kind.group].map((tokens) => of(memoryNames.own(tokens))), foreign: of(memoryNames.foreign) };
}

function scoredKind({ kind, readings, hasAdapter }: ReadKind, rule: MemoryRule): ScoredKind {
  const targets = targetsOf(kind.texts);
  const own = memoryNames.own(comparedSize(kind.group));
  const { foreign } = memoryNames;
  const methods: Record<string, Method> = {
    ...{ base: { model: "base" }, static: { model: "static" }, mixture: { model: "mixture" } },
    ...Object.fromEntries(
      knownSizes[kind.group].map(memoryNames.own).map((memory) => [memory, { model: "base", memory } satisfies Method]),
    ),
    foreign: { model: "base", memory: foreign },
    "mixture, own": { model: "mixture", memory: own },
    "mixture, foreign": { model: "mixture", memory: foreign },
    ...{ adapter: { model: "adapter" }, "adapter in auto": { model: "auto" } },
    both: { model: "both", memory: own },
    passage: { model: "passage" },
    "passage, own": { model: "passage", memory: own },
  };
  const scored: ScoredKind = { kind, hasAdapter, logprobs: {}, correct: {} };
  for (const [name, method] of Object.entries(methods)) {
    const scores = scoreKind(readings, method, targets, rule);
    scored.logprobs[name] = scores.map(({ logprobs }) => logprobs);
    scored.correct[name] = scores.map(({ correct }) => correct);
  }
  const sumOf = (name: string) => scored.logprobs[name].reduce((sum, ofText) => sum + averageOf(Array.from(ofText)), 0);
  const better = ["mixture, own", "adapter", "adapter in auto"].reduce((a, b) => (sumOf(b) > sumOf(a) ? b : a));
  for (const values of [scored.logprobs, scored.correct]) values["better alone"] = values[better];
  return scored;
}
