/** Feeds of mixed rows, and what comes of them. Shapes as in head-graph.ts. */
import { names } from "./graph-names.ts";
import { bool, interleaved, readRows, rowFeeds, rowFetches, zeroBias } from "./row-feeds.ts";
import { type SessionResults, type Tensor, tensor } from "./session.ts";
import type {
  LogitChanges,
  MixedInput,
  MixedOutput,
  MixtureInput,
  ModelShape,
  PointerInput,
  PointerQueries,
} from "./step.ts";
import { estimatedProbability, sampleOf, type VocabularySample } from "./vocabulary-sample.ts";

const { mixed: n } = names;
/** Added to the score of a position that must not be copied from; also the score of a sentinel without mass. */
const hiddenScore = -1e9;
const nothing = new Float32Array(0);
const noAdapterBias = { ...zeroBias, adapters: Int32Array.of(0) };
/** Nats of a bias from which on a row's factors are scaled, and of the greatest factor then. */
const greatBias = 60;
const greatestFactor = 80;

interface Served {
  config: ModelShape;
  /** Q */
  gates: number;
}

/** All inputs of mixed rows; where there are none, of one that is not computed. */
export function feedMixed(input: MixedInput | undefined, served: Served): Record<string, Tensor> {
  const { config, gates: Q } = served;
  const rows = input ?? noMixedRow();
  const { adapters: J, evidence, mixture, adapterBias, keep = [] } = rows;
  const X = rows.rows.length;
  const { full, sampled } = splitRows(rows, served);
  const placeOf = new Map(full.map((x, f) => [x, f]));
  const places = Int32Array.from(adapterBias.rows, (x) => placeOf.get(x)!);
  const bias = adapterBias.values.length > 0 ? { ...adapterBias, rows: places } : noAdapterBias;
  const queries = mixture?.pointer ?? evidence ?? noQueries(config, X);
  const feeds: Record<string, Tensor> = {
    [n.rows]: tensor(rows.rows, [X]),
    [n.fullRows]: indexes(full),
    [n.gates]: tensor(rowsAt(full, rows.gates, J * Q), [full.length, J, Q]),
    [n.hasAdapterBias]: bool(adapterBias.values.length > 0),
    [n.adapterBiasIndices]: tensor(interleaved(bias.rows, bias.adapters, bias.ids), [bias.values.length, 3]),
    [n.adapterBiasValues]: tensor(bias.values, [bias.values.length]),
    [n.keptRows]: indexes(keep),
    [n.keptAdapterRows]: indexes(J > 0 ? keep.map((x) => placeOf.get(x)!) : []),
    [n.wantsExperts]: bool(input !== undefined),
    ...queryFeeds(queries, config),
    ...mixtureFeeds(mixture ?? noMixture(X, J, queries.positions), J, mixture !== undefined),
    // Replaces what `mixtureFeeds` feeds: only here do rows score targets, and may rows with adapters be sampled.
    [n.hasAdapters]: bool(J > 0 && full.length > 0),
    [n.targetIds]: tensor(rows.targetIds, [X]),
  };
  if (sampleServed(served)) {
    feeds[n.hasSampled] = bool(sampled.length > 0);
    feeds[n.sampledRows] = indexes(sampled);
    feeds[n.sampledGates] = tensor(rowsAt(sampled, rows.gates, J * Q), [sampled.length, J, Q]);
  }
  return feeds;
}

/**
 * The rows whose adapters say how likely every token is, and those for which an estimate of their target is enough: evidence under
 * adapters that are gates alone. No other row of the run matters.
 */
function splitRows(
  { rows, adapters: J, adapterBias, mixture, keep = [] }: MixedInput,
  served: Served,
): { full: number[]; sampled: number[] } {
  const all = [...rows.keys()];
  if (mixture || J === 0 || !sampleServed(served)) return { full: all, sampled: [] };
  const full = new Set([...keep, ...adapterBias.rows]);
  return { full: all.filter((x) => full.has(x)), sampled: all.filter((x) => !full.has(x)) };
}

function sampleServed({ config, gates }: Served): VocabularySample | null {
  return gates > 0 ? sampleOf(config.vocabularySize) : null;
}

function indexes(rows: readonly number[]): Tensor {
  return tensor(Int32Array.from(rows), [rows.length]);
}

/** Some rows of an array of `width` values a row. */
function rowsAt<T extends Float32Array | Int32Array>(rows: readonly number[], values: T, width: number): T {
  const some = new (values.constructor as new (length: number) => T)(rows.length * width);
  rows.forEach((x, i) => {
    some.set(values.subarray(x * width, (x + 1) * width), i * width);
  });
  return some;
}

/** How X rows of J adapters are mixed; they score no target. */
export function mixtureFeeds(mixture: MixtureInput, J: number, wanted: boolean): Record<string, Tensor> {
  const { baseWeights, adapterWeights, inverseTemperatures, pointer } = mixture;
  const { positions: P, lengths, sharpness, ids, weights, odds } = pointer;
  const X = baseWeights.length;
  const likelihoods = changesOfLikelihoods(mixture.bias, X);
  const mask = new Float32Array(X * P);
  lengths.forEach((length, row) => {
    mask.fill(hiddenScore, row * P + length, (row + 1) * P);
  });
  return {
    [n.hasAdapters]: bool(J > 0),
    [n.targetIds]: tensor(new Int32Array(X), [X]),
    ...rowFeeds(n, { inverseTemperatures, bias: likelihoods, wanted }),
    [n.rowFactors]: tensor(likelihoods.rowFactors, [X, 1]),
    [n.baseWeights]: tensor(baseWeights, [X, 1]),
    [n.adapterWeights]: tensor(adapterWeights, [X, 1, J]),
    [n.pointerMask]: tensor(mask, [X, P]),
    [n.pointerSharpness]: tensor(sharpness, [X, 1]),
    [n.pointerIds]: tensor(ids, [X, P]),
    [n.pointerSentinels]: tensor(sentinelScores(pointer), [X, 1]),
    [n.pointerWeights]: tensor(weights, [X, 1]),
    [n.pointerOdds]: tensor(odds, [X, 1]),
  };
}

/** A position whose key is the same has the score θ and the mass 1; the sentinel has the mass κ. */
function sentinelScores({ sharpness, sentinels }: PointerInput): Float32Array {
  return sharpness.map((theta, x) => Math.max(hiddenScore, theta + Math.log(sentinels[x])));
}

/**
 * Biases of logits as factors of likelihoods: of the tokens named, and of all other tokens of each row [X]. Float32 holds
 * e^±87, so the factors of a row with a great bias are scaled such that the greatest is near its end: tokens some 160 nats
 * below that one still have a likelihood.
 */
function changesOfLikelihoods(bias: LogitChanges, X: number): LogitChanges & { rowFactors: Float32Array } {
  const { rows, ids, values, penalties }: LogitChanges = bias.values.length > 0 ? bias : zeroBias;
  const highest = new Float64Array(X);
  const isGreat = new Set<number>();
  values.forEach((value, i) => {
    highest[rows[i]] = Math.max(highest[rows[i]], value);
    if (Math.abs(value) > greatBias) isGreat.add(rows[i]);
  });
  const shifts = highest.map((most, row) => (isGreat.has(row) ? greatestFactor - most : 0));
  return {
    ...{ rows, ids, penalties },
    values: values.map((value, i) => Math.exp(value + shifts[rows[i]])),
    rowFactors: Float32Array.from(shifts, Math.exp),
  };
}

export function mixedFetches(input: MixedInput, served: Served, wantsScores: boolean): string[] {
  const { evidence, mixture, keep = [], adapters } = input;
  const { full, sampled } = splitRows(input, served);
  return [
    ...(evidence ? [n.cosines] : []),
    ...[n.baseTargets, ...(adapters > 0 && full.length > 0 ? [n.adapterTargets] : [])],
    ...(sampled.length > 0 ? [n.baseSums, n.adapterSums, n.targetDeltaParts] : []),
    ...(keep.length > 0 ? [n.keptBase, ...(adapters > 0 ? [n.keptAdapters] : [])] : []),
    ...(mixture ? rowFetches(n, mixture.inverseTemperatures, wantsScores) : []),
  ];
}

export function readMixed(
  results: SessionResults,
  input: MixedInput,
  served: Served,
  wantsScores: boolean,
): MixedOutput {
  const { adapters: J, evidence, keep = [], mixture } = input;
  const X = input.rows.length;
  const data = (name: string, isThere = true) => (isThere ? (results[name].data as Float32Array) : nothing);
  return {
    baseTargets: data(n.baseTargets).subarray(0, X),
    adapterTargets: adapterTargets(results, input, served),
    kept: keep.length > 0 ? { base: data(n.keptBase), adapters: data(n.keptAdapters, J > 0) } : null,
    cosines: evidence ? data(n.cosines).subarray(0, X * evidence.positions) : null,
    rows: mixture
      ? readRows(results, n, X, {
          ...{ areLikelihoods: true, wantsScores },
          inverseTemperatures: mixture.inverseTemperatures,
        })
      : null,
  };
}

/** Probabilities of the targets, [X, J]: those of full rows, and estimates of those of sampled ones. */
function adapterTargets(results: SessionResults, input: MixedInput, served: Served): Float32Array {
  const { adapters: J, targetIds } = input;
  const targets = new Float32Array(targetIds.length * J);
  if (targets.length === 0) return targets;
  const { full, sampled } = splitRows(input, served);
  full.forEach((x, f) => {
    targets.set((results[n.adapterTargets].data as Float32Array).subarray(f * J, (f + 1) * J), x * J);
  });
  if (sampled.length === 0) return targets;
  const sample = sampleServed(served)!;
  const [base, adapted, deltas] = [n.baseSums, n.adapterSums, n.targetDeltaParts].map(
    (name) => results[name].data as Float32Array,
  );
  const Q = deltas.length / (sampled.length * J);
  sampled.forEach((x, s) => {
    for (let j = 0; j < J; j++) {
      const at = s * J + j;
      const delta = deltas.subarray(at * Q, (at + 1) * Q).reduce((sum, part) => sum + part, 0);
      const sums = { base: base.subarray(s * 3), adapted: adapted.subarray(at * 3) };
      const probability = (results[n.baseTargets].data as Float32Array)[x];
      targets[x * J + j] = estimatedProbability(targetIds[x], sample, { probability, ...sums, delta });
    }
  });
  return targets;
}

function noMixedRow(): MixedInput {
  return {
    rows: Int32Array.of(0),
    adapters: 0,
    gates: new Float32Array(0),
    adapterBias: noAdapterBias,
    targetIds: Int32Array.of(0),
  };
}

function noQueries({ hiddenSize }: ModelShape, X: number): PointerQueries {
  return {
    ...{ keys: new Float32Array(hiddenSize), count: 1, positions: 1 },
    ...{ queries: Int32Array.of(0), answers: new Int32Array(X) },
  };
}

/** What is fed of a mixture that is not wanted. */
function noMixture(X: number, J: number, P: number): MixtureInput {
  return {
    ...{ baseWeights: new Float32Array(X), adapterWeights: new Float32Array(X * J) },
    ...{ inverseTemperatures: new Float32Array(X).fill(1), bias: zeroBias },
    pointer: {
      ...{ positions: P, lengths: new Int32Array(0) },
      ...{ sharpness: new Float32Array(X), sentinels: new Float32Array(X), odds: new Float32Array(X) },
      ...{ ids: new Int32Array(X * P), weights: new Float32Array(X) },
    },
  };
}

function queryFeeds(
  { keys, count, positions: P, queries, answers }: PointerQueries,
  { heads: H, hiddenSize: D }: ModelShape,
): Record<string, Tensor> {
  return {
    [n.pointerKeys]: tensor(keys, [count, H, P, D / H]),
    [n.pointerQueries]: tensor(queries, [count, queries.length / count]),
    [n.pointerRows]: tensor(answers, [answers.length]),
  };
}
