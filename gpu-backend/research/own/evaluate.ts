/** `chameleon eval:own`: measures documents as a memory, beside own adapters and passages, and fits the rule that weighs memories. */
import { join } from "node:path";
import { defaultMemoryRule, type MemoryRule } from "../../../shared/math/memory.ts";
import { readLock } from "../../training/corpus/lock.ts";
import { statesOf } from "../../training/hidden-states.ts";
import { observationAt } from "../../training/memory-scores.ts";
import { type Run, resultsOf } from "../../training/run.ts";
import { openArtifacts } from "../open-artifacts.ts";
import {
  averageOf,
  estimateText,
  gainsOf,
  groupOf,
  hasInk,
  markdownTable,
  overSources,
  type Pieces,
  rounded,
  rowOf,
  type ScoredSource,
  signed,
} from "../statistics.ts";
import { fitWeights } from "./fit.ts";
import {
  comparedSize,
  evidenceCount,
  freshKinds,
  groups,
  type Kind,
  knownSizes,
  lockedKinds,
  readPositions,
  targetsOf,
} from "./kinds.ts";
import { memoryNames, openFits, readKind, type StatedText } from "./read-kind.ts";
import { type Method, type Readings, scoreKind, suggestedTokens } from "./score.ts";

interface OwnOptions {
  model: string;
  corpusFolder: string;
  texts: number;
}

/** Values of θ to try. The value with the greatest gain on the development kinds is used. */
const thetas = [20, 40];
/** A new version measures everything again. */
const partVersion = 4;
const format = "int8";
/** Memory and own adapter together, compared with the better of the two. */
const bothOverBetter = "both over better alone";

export async function evaluateOwn({ model, corpusFolder, texts }: OwnOptions, run: Run) {
  const { threads } = run;
  const { lock, hash } = await readLock();
  const opened = await openArtifacts(model, join(model, "artifacts"), { threads, format });
  const { base, served, trunk } = opened;
  const fits = await openFits(base, served, threads);
  try {
    const kinds = await lockedKinds(lock, corpusFolder, base.tokenizer, texts);
    // Kept, because each kind also needs the states of the next kind.
    const known = new Map<Kind, StatedText[]>();
    const knownOf = async (kind: Kind) => {
      const stated = known.get(kind) ?? (await statesOf(kind.known, trunk));
      known.set(kind, stated);
      return stated;
    };
    const parts = kinds.map((kind) => {
      const foreign = foreignTo(kind, kinds);
      return {
        kind,
        foreign,
        name: kind.name,
        key: [partVersion, base.weightsHash, served.manifestHash, kind, foreign.known],
      };
    });
    const readings = await resultsOf(
      "kinds",
      parts,
      async ({ kind, foreign }) => {
        const own = await knownOf(kind);
        const read = await readKind(kind, own, await knownOf(foreign), { ...opened, fits, threads });
        known.delete(kind);
        return read;
      },
      run,
    );
    const read = kinds.map((kind, k) => ({ kind, readings: readings[k] }));
    const { name } = served.manifest.model;
    return rounded({ model: name, lock: hash, fresh: freshKinds(lock.corpora), ...summarise(read, base.tokenizer) });
  } finally {
    await fits.release();
    await opened.release();
  }
}

/** The kind whose excerpts are the unrelated ("foreign") memory of `kind`. */
function foreignTo(kind: Kind, kinds: readonly Kind[]): Kind {
  const own = kinds.filter(({ group }) => group === kind.group);
  return own[(own.indexOf(kind) + 1) % own.length];
}

interface ReadKind {
  kind: Kind;
  readings: Readings;
}

function summarise(read: readonly ReadKind[], tokenizer: Pieces) {
  const development = read.filter(({ kind }) => kind.group === "development");
  const tried = thetas.map((theta) => fitOn(development, { ...defaultMemoryRule, theta }));
  const size = memoryNames.own(comparedSize("development"));
  const best = tried.reduce((most, one) => (one.fit.gains[size].mean > most.fit.gains[size].mean ? one : most));
  const fresh = read.filter(({ kind }) => kind.group === "fresh").map((one) => scored(one, best.rule));
  const sources = [...best.scored, ...fresh];
  return {
    fits: tried.map(({ fit }) => fit),
    rule: best.rule,
    rows: sources.map((source) => rowOf(source, comparisonsOf(source), tokenizer)),
    groups: groups.map((group) =>
      ownGroupOf(
        sources.filter((source) => source.group === group),
        tokenizer,
      ),
    ),
  };
}

/** In the result, `suggested` has the mean `suggestedTokens` of each comparison's first method. */
function ownGroupOf(sources: readonly ScoredSource[], tokenizer: Pieces) {
  const comparisons = comparisonsOf(sources[0]);
  const suggested = comparisons.map((of) => {
    const [method] = of.split(" over ");
    return [of, averageOf(sources.map(({ correct }) => averageOf(correct![method].map(suggestedTokens))))] as const;
  });
  return {
    ...groupOf(sources, comparisons, tokenizer, { "no white space": hasInk(tokenizer) }),
    suggested: Object.fromEntries(suggested),
  };
}

/** Compares each method with the base, and some methods with another method. */
function comparisonsOf({ logprobs }: ScoredSource): string[] {
  const names = Object.keys(logprobs).filter((name) => name !== "base");
  const compared = names.flatMap((name) => (name.startsWith("mixture, ") ? [`${name} over mixture`] : []));
  return [...names, ...compared, ...(names.includes("both") ? [bothOverBetter] : [])];
}

/** Fits a rule on all kinds. Gains are measured on each kind with a rule fitted on the other kinds. */
function fitOn(kinds: readonly ReadKind[], start: MemoryRule) {
  const observed = kinds.map((kind) => observationsOf(kind, start));
  const fitted = (isUsed: (i: number) => boolean) => {
    const used = observed.filter((_, i) => isUsed(i));
    return fitWeights(
      start,
      used.flatMap(({ own }) => own),
      used.map(({ foreign }) => foreign),
    );
  };
  const ofKinds = kinds.map((kind, left) => {
    const rule = fitted((i) => i !== left);
    return scored(kind, rule);
  });
  const rule = fitted(() => true);
  const gainOf = (name: string) => overSources(ofKinds.map(({ texts, logprobs }) => gainsOf(texts, logprobs, name)))!;
  const names = [...knownSizes.development.map(memoryNames.own), memoryNames.foreign];
  const gains = Object.fromEntries(names.map((name) => [name, gainOf(name)]));
  return { fit: { theta: start.theta, weights: rule.weights, gains }, rule, scored: ofKinds };
}

function observationsOf({ kind, readings: { base } }: ReadKind, rule: MemoryRule) {
  const targets = targetsOf(kind.texts);
  const scoredPlaces = [...targets.keys()].filter((at) => at % readPositions.length >= evidenceCount);
  const of = (name: string) =>
    scoredPlaces.map((at) => observationAt(base, at, base.memories[name][at], targets[at], rule));
  return { own: knownSizes[kind.group].map((tokens) => of(memoryNames.own(tokens))), foreign: of(memoryNames.foreign) };
}

function scored({ kind, readings }: ReadKind, rule: MemoryRule): ScoredSource {
  const targets = targetsOf(kind.texts);
  const own = memoryNames.own(comparedSize(kind.group));
  const { foreign } = memoryNames;
  const sizes = knownSizes[kind.group].map(memoryNames.own);
  const methods: Record<string, Method> = {
    ...{ base: { model: "base" }, static: { model: "static" }, mixture: { model: "mixture" } },
    ...Object.fromEntries(sizes.map((memory) => [memory, { model: "base", memory } satisfies Method])),
    foreign: { model: "base", memory: foreign },
    "mixture, own": { model: "mixture", memory: own },
    "mixture, foreign": { model: "mixture", memory: foreign },
    ...{ adapter: { model: "adapter" }, "adapter in auto": { model: "auto" } },
    both: { model: "both", memory: own },
    passage: { model: "passage" },
    "passage, own": { model: "passage", memory: own },
  };
  const logprobs: Record<string, ArrayLike<number>[]> = {};
  const correct: Record<string, number[][]> = {};
  for (const [name, method] of Object.entries(methods)) {
    const scores = scoreKind(readings, method, targets, rule);
    logprobs[name] = scores.map((score) => score.logprobs);
    correct[name] = scores.map((score) => score.correct);
  }
  const sumOf = (name: string) => logprobs[name].reduce((sum, ofText) => sum + averageOf(Array.from(ofText)), 0);
  const better = ["mixture, own", "adapter", "adapter in auto"].reduce((a, b) => (sumOf(b) > sumOf(a) ? b : a));
  logprobs["better alone"] = logprobs[better];
  correct["better alone"] = correct[better];
  return { group: kind.group, name: kind.name, texts: kind.texts, logprobs, correct };
}

export function ownTables({ fits, rows, groups: ofGroups }: Awaited<ReturnType<typeof evaluateOwn>>): string[] {
  const fitted = Object.keys(fits[0].gains);
  const names = new Set(rows.flatMap(({ gains }) => Object.keys(gains)));
  const columns = [...names].filter((name) => !name.includes(" over ") || name === bothOverBetter);
  const minus = (text: string) => text.replace("-", "−");
  return [
    markdownTable(
      ["θ", "weights", ...fitted.map((name) => (name === memoryNames.foreign ? name : `${name} tokens`))],
      fits.map(({ theta, weights, gains }) => [
        ...[String(theta), weights.map((weight) => minus(weight.toFixed(2))).join(", ")],
        ...fitted.map((name) => estimateText(gains[name])),
      ]),
    ),
    markdownTable(
      [
        ...["text", "method", "gain", "median kind", "worst kind", "1% / 5% of texts", "no white space"],
        ...["accuracy, points", "suggested tokens"],
      ],
      ofGroups.flatMap(({ group, sources, gains, suggested }) =>
        Object.entries(gains).map(([name, one]) => [
          ...[`${group} kinds (${sources})`, name, estimateText(one.gain), signed(one.median)],
          `${signed(one.lowest.gain)} (${one.lowest.name})`,
          `${signed(one.lowTexts[0])} / ${signed(one.lowTexts[1])}`,
          estimateText(one.parts["no white space"]),
          ...[minus((100 * one.accuracy!.mean).toFixed(1)), suggested[name].toFixed(2)],
        ]),
      ),
    ),
    markdownTable(
      ["kind", "documents / texts", "base, nats", ...columns],
      rows.map(({ name, group, documents, texts, base, gains }) => [
        ...[group === "fresh" ? `${name} (fresh)` : name, `${documents} / ${texts}`, base.nats.toFixed(2)],
        ...columns.map((column) => {
          if (!gains[column]) return "–";
          return column === bothOverBetter ? estimateText(gains[column]) : signed(gains[column].mean);
        }),
      ]),
    ),
  ];
}
