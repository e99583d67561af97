/**
 * Makes an instant adapter of a few examples: which of its three parts are worth keeping, and what the whole gains.
 * Each part is judged on examples that it was not made from, and stays only if it surely gains there; where all
 * together gain next to nothing, nothing stays and the adapter is the base. Pure but for the head, which is asked for
 * probabilities. Not here: where hidden states come from, and the bytes of the result.
 * Shapes: D hidden size, V vocabulary, Q gates, M tokens of the support.
 */
import type { Directions, RowBias } from "../adapter.ts";
import { countsOf, foldsOf, type Observed, positionsOf, sumOf } from "./examples.ts";
import { adapterMargin, type ExampleGain, type Gain, gainOver, isWorthwhile, partMargin } from "./held-out-gain.ts";
import { fitRankOne, type RankOne, rankOneGains, standardised } from "./rank-one.ts";
import { biasGains, biasStrengths, tokenBias } from "./token-bias.ts";

/** One example after the trunk. */
export interface Example {
  hidden: Float32Array; // [N, D]
  /** What follows each position, [N]. */
  targets: Int32Array;
}

/** What the head makes of an example's hidden states under given gates [Q]; null is the base. */
export interface Head {
  vocabularySize: number; // V
  /** Logprob of each target [N], and how often each token is expected over all positions, [V]. */
  survey(example: Example, gates: Float32Array | null): Promise<{ logprobs: Float32Array; expected: Float64Array }>;
  /** Probabilities of the tokens of `support` [M] at each position, [N, M]. */
  probabilities(example: Example, gates: Float32Array | null, support: Int32Array): Promise<Float32Array>;
}

export const partNames = ["gates", "unigram", "rank-1"] as const;
export type PartName = (typeof partNames)[number];

export interface InstantFit {
  /** null where they are not worth it. */
  gates: Float32Array | null;
  bias: RowBias | null;
  directions: Directions | null;
  /** What each part gained on top of those before it, kept or not; absent where it was not tried. */
  parts: { name: PartName; kept: boolean; gain: Gain }[];
  /** Of what is kept, on examples that it was not made from; null where nothing is. */
  gain: Gain | null;
}

/** From this many examples on a direction is fitted: of fewer it learns the texts and not their kind. */
export const rankOneExamples = 20;
/** Which share of the direction may be applied. */
const rankOneStrengths = [0.5, 0.75, 1] as const;
/** A token that does not come belongs to the support where the head expects it at least this often. */
const expectedCount = 0.5;
const none = { gates: null, bias: null, directions: null, gain: null };

/** `gates` are those of the examples' centroid [Q]; null where the served hyper-network makes none. */
export async function fitInstant(
  examples: readonly Example[],
  gates: Float32Array | null,
  head: Head,
  { withDirections }: { withDirections: boolean },
): Promise<InstantFit> {
  const base = await eachOf(examples, (example) => head.survey(example, null));
  const parts: InstantFit["parts"] = [];
  let start = { gates: null as Float32Array | null, surveys: base };
  let gains: ExampleGain[] = examples.map(({ targets }) => ({ tokens: targets.length, nats: 0 }));
  if (gates) {
    const adapted = await eachOf(examples, (example) => head.survey(example, gates));
    const won = adapted.map(({ logprobs }, i) => ({
      tokens: logprobs.length,
      nats: logprobs.reduce((sum, logprob, n) => sum + logprob - base[i].logprobs[n], 0),
    }));
    const part = judged("gates", won);
    parts.push(part);
    if (part.kept) [start, gains] = [{ gates, surveys: adapted }, won];
  }

  const observed = await observe(examples, head, start);
  const unigram = chooseBias(observed, examples.length);
  parts.push(unigram.part);
  if (unigram.part.kept) gains = together(gains, unigram.gains);
  const bias = unigram.part.kept ? unigram.bias : new Float64Array(observed.support.length);

  let rankOne: RankOne | null = null;
  if (withDirections && examples.length >= rankOneExamples) {
    const found = chooseRankOne(observed, examples.length, unigram.part.kept ? unigram.strength : 0, bias);
    if (found) {
      parts.push(found.part);
      if (found.part.kept) [rankOne, gains] = [found.fit, together(gains, found.gains)];
    }
  }
  const gain = gainOver(gains);
  if (!parts.some(({ kept }) => kept) || !isWorthwhile(gain, adapterMargin)) {
    return { ...none, parts: parts.map((part) => ({ ...part, kept: false })) };
  }
  return { gates: start.gates, ...assembled(observed, bias, rankOne, head.vocabularySize), parts, gain };
}

/** One after the other: results of V numbers each are better not all under way at once. */
async function eachOf<T>(examples: readonly Example[], ask: (example: Example) => Promise<T>): Promise<T[]> {
  const answers: T[] = [];
  for (const example of examples) answers.push(await ask(example));
  return answers;
}

async function observe(
  examples: readonly Example[],
  head: Head,
  { gates, surveys }: { gates: Float32Array | null; surveys: { expected: Float64Array }[] },
): Promise<Observed> {
  const wanted = new Float64Array(head.vocabularySize);
  for (const { expected } of surveys)
    expected.forEach((count, id) => {
      wanted[id] += count;
    });
  for (const { targets } of examples) for (const id of targets) wanted[id] = Number.POSITIVE_INFINITY;
  const support = Int32Array.from(wanted.keys().filter((id) => wanted[id] >= expectedCount));
  const placeOf = new Int32Array(head.vocabularySize);
  support.forEach((id, m) => {
    placeOf[id] = m;
  });

  const N = examples.reduce((sum, { targets }) => sum + targets.length, 0);
  const D = examples[0].hidden.length / examples[0].targets.length;
  const M = support.length;
  const observed: Observed = {
    exampleOf: new Int32Array(N),
    targets: new Int32Array(N),
    hidden: new Float32Array(N * D),
    support,
    probabilities: new Float32Array(N * M),
  };
  let at = 0;
  for (const [i, example] of examples.entries()) {
    const { hidden, targets } = example;
    observed.exampleOf.fill(i, at, at + targets.length);
    observed.targets.set(
      targets.map((id) => placeOf[id]),
      at,
    );
    observed.hidden.set(hidden, at * D);
    observed.probabilities.set(await head.probabilities(example, gates, support), at * M);
    at += targets.length;
  }
  return observed;
}

/** The strength at which the bias gains most on held-out examples, and the bias of all examples at it. */
function chooseBias(observed: Observed, examples: number) {
  const counts = countsOf(observed);
  const folds = foldsOf(examples);
  const byStrength = biasStrengths.map(() => new Map<number, ExampleGain>());
  for (let fold = 0; fold < folds; fold++) {
    const unseen = tokenBias(sumOf(counts.filter((_, i) => i % folds !== fold)));
    const at = positionsOf(observed, (i) => i % folds === fold);
    biasStrengths.forEach((strength, s) => {
      for (const [i, gain] of biasGains(observed, at, scaled(unseen, strength))) byStrength[s].set(i, gain);
    });
  }
  const { gains, index } = best(byStrength);
  const strength = biasStrengths[index];
  return { part: judged("unigram", gains), gains, strength, bias: scaled(tokenBias(sumOf(counts)), strength) };
}

/** The direction on top of the bias; null where the examples repeat too little to fit one. */
function chooseRankOne(observed: Observed, examples: number, biasStrength: number, bias: Float64Array) {
  const counts = countsOf(observed);
  const folds = foldsOf(examples);
  const states = standardised(observed);
  const byStrength = rankOneStrengths.map(() => new Map<number, ExampleGain>());
  for (let fold = 0; fold < folds; fold++) {
    // The bias below it must not have seen the held-out examples either.
    const unseen = scaled(tokenBias(sumOf(counts.filter((_, i) => i % folds !== fold))), biasStrength);
    const fit = fitRankOne(
      observed,
      states,
      positionsOf(observed, (i) => i % folds !== fold),
      unseen,
    );
    if (!fit) return null;
    const at = positionsOf(observed, (i) => i % folds === fold);
    rankOneGains(observed, at, unseen, fit, rankOneStrengths).forEach((gains, s) => {
      for (const [i, gain] of gains) byStrength[s].set(i, gain);
    });
  }
  const { gains, index } = best(byStrength);
  const part = judged("rank-1", gains);
  const fit = part.kept
    ? fitRankOne(
        observed,
        states,
        positionsOf(observed, () => true),
        bias,
      )
    : null;
  return { part, gains, fit: fit && { ...fit, b: scaled(fit.b, rankOneStrengths[index]) } };
}

/** What is served: a sparse row bias of token ids, and a pair of rank 1; the pair's constant goes into the bias. */
function assembled({ support, hidden, exampleOf }: Observed, bias: Float64Array, rankOne: RankOne | null, V: number) {
  const D = hidden.length / exampleOf.length;
  const values = Float64Array.from(bias);
  let directions: Directions | null = null;
  if (rankOne) {
    const { a, offset, bent, b } = rankOne;
    directions = { rank: 1, a: Float32Array.from(a), b: new Float32Array(V) };
    if (a.length !== D) throw new Error(`a direction of ${a.length} elements for a hidden state of ${D}`);
    bent.forEach((m, r) => {
      directions!.b[support[m]] = b[r];
      values[m] += offset * b[r];
    });
  }
  const kept = Int32Array.from(values.keys().filter((m) => values[m] !== 0));
  const rowBias = { ids: kept.map((m) => support[m]), values: Float32Array.from(kept, (m) => values[m]) };
  return { bias: kept.length > 0 ? rowBias : null, directions };
}

function judged(name: PartName, gains: readonly ExampleGain[]) {
  const gain = gainOver(gains);
  return { name, kept: isWorthwhile(gain, partMargin), gain };
}

function best(byStrength: readonly Map<number, ExampleGain>[]): { gains: ExampleGain[]; index: number } {
  const totals = byStrength.map((gains) => gains.values().reduce((sum, { nats }) => sum + nats, 0));
  const index = totals.indexOf(Math.max(...totals));
  const gains = byStrength[index];
  return { index, gains: [...gains.keys()].sort((a, b) => a - b).map((i) => gains.get(i)!) };
}

function together(one: readonly ExampleGain[], other: readonly ExampleGain[]): ExampleGain[] {
  return one.map(({ tokens, nats }, i) => ({ tokens, nats: nats + other[i].nats }));
}

function scaled(values: Float64Array, factor: number): Float64Array {
  return values.map((value) => factor * value);
}
