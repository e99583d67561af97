/** What a sample of a large vocabulary says of one token's probability, beside the sum over all of it. */
import { describe, expect, test } from "vitest";
import {
  estimatedProbability,
  sampledColumns,
  sampleOf,
  summing,
  type VocabularySample,
} from "../../../../gpu-backend/runtime/vocabulary-sample.ts";
import { seededRandom } from "../../../support/steps.ts";

const seed = 20_261_127;
const V = 50_257;
const sample = sampleOf(V)!;
const [, common] = sample.ranges[0];
const rareShare = 16;
/** Common, sampled among the rarer ones, and not sampled. */
const kinds = { common: 500, sampled: sample.ranges[3][0] + 1, other: sample.ranges[3][1] + 1 };

/** A base whose tokens become rarer with their ids, roughly as GPT-2's do, and an adapter's deltas. */
function drawn(random: () => number, spread: number) {
  const logits = Float64Array.from({ length: V }, (_, v) => -Math.log(v + 10) + 3 * (random() - 0.5));
  return { logits, delta: Float64Array.from({ length: V }, () => spread * (random() - 0.5)) };
}

function softmax(logits: Float64Array): Float64Array {
  const highest = logits.reduce((most, x) => Math.max(most, x), Number.NEGATIVE_INFINITY);
  const e = logits.map((x) => Math.exp(x - highest));
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map((x) => x / sum);
}

/** Sums of x [V] as the graph makes them: column 0 is token `id`. */
function sumsOf(x: Float64Array, id: number, { ranges, columns }: VocabularySample): number[] {
  const row = Float64Array.of(x[id], ...ranges.flatMap(([start, end]) => [...x.subarray(start, end)]));
  const matrix = summing(sample);
  const sums = [0, 0, 0];
  for (let w = 0; w < columns; w++) for (let c = 0; c < 3; c++) sums[c] += row[w] * matrix[w * 3 + c];
  return sums;
}

function estimateOf({ logits, delta }: ReturnType<typeof drawn>, id: number): { estimate: number; exact: number } {
  const adapted = logits.map((x, v) => x + delta[v]);
  const exact = softmax(adapted)[id];
  // Up to a factor, which the estimate must not depend on.
  const scaled = softmax(adapted).map((x) => 0.37 * x);
  const sums = sumsOf(scaled, id, sample);
  sums[0] /= Math.exp(delta[id]);
  const [probability, ...masses] = sumsOf(softmax(logits), id, sample);
  const base = [probability, ...masses].map((x) => 1.9 * x);
  return { estimate: estimatedProbability(id, sample, { probability, base, adapted: sums, delta: delta[id] }), exact };
}

test("a small vocabulary is summed; of a large one all common tokens are looked at and a sixteenth of the others", () => {
  expect(sampleOf(common - 1)).toBeNull();
  expect(sampleOf(common)).toBeNull();
  for (const vocabularySize of [common + 1, common + 50, common + 901, V, 128_256]) {
    const { ranges, columns } = sampleOf(vocabularySize)!;
    const ids = ranges.flatMap(([start, end]) => Array.from({ length: end - start }, (_, i) => start + i));
    expect(new Set(ids).size).toBe(ids.length);
    expect(Math.max(...ids.slice(-1))).toBeLessThan(vocabularySize);
    expect(ids.length).toBe(columns - 1);
    const others = vocabularySize - common;
    expect(ids.length - common).toBeGreaterThanOrEqual(others / rareShare);
    expect(ids.length - common).toBeLessThanOrEqual(Math.min(others, others / rareShare + 8));
    expect(sampleOf(vocabularySize)!.share).toBeCloseTo(others / (ids.length - common), 12);
    expect(ids.slice(0, common)).toEqual(Array.from({ length: common }, (_, id) => id));
  }
});

test("its columns are the vocabulary's, behind one of zeros", () => {
  const matrix = Float32Array.from({ length: 2 * V }, (_, i) => i);
  const columns = sampledColumns(matrix, 2, sample);
  const ids = sample.ranges.flatMap(([start, end]) => Array.from({ length: end - start }, (_, i) => start + i));
  expect([...columns]).toEqual([0, ...ids, 0, ...ids.map((id) => V + id)]);
});

describe.each(Object.entries(kinds))("of a token that is %s", (_, id) => {
  test("the probability is exact where the adapter changes only common tokens and the token itself", () => {
    const one = drawn(seededRandom(seed), 4);
    one.delta.fill(0, common);
    for (const own of [-3, 0, 5]) {
      one.delta[id] = own;
      const { estimate, exact } = estimateOf(one, id);
      expect(Math.abs(estimate / exact - 1)).toBeLessThan(1e-6);
    }
  });

  test("the probability is near the exact one where it changes all tokens alike", () => {
    const random = seededRandom(seed);
    const errors = Array.from({ length: 20 }, () => {
      const { estimate, exact } = estimateOf(drawn(random, 4), id);
      return Math.log(estimate / exact);
    });
    const mean = errors.reduce((a, b) => a + b, 0) / errors.length;
    const worst = Math.max(...errors.map(Math.abs));
    expect(worst).toBeLessThan(0.05);
    expect(Math.abs(mean)).toBeLessThan(0.01);
  });

  test("a token that has nearly all mass keeps it, and one without any has none", () => {
    const one = drawn(seededRandom(seed), 4);
    one.logits[id] = 60;
    expect(estimateOf(one, id).estimate).toBeCloseTo(1, 6);
    const nothing = { probability: 0, base: [0, 0.9, 0.01], adapted: [0, 0.9, 0.01], delta: 1 };
    expect(estimatedProbability(id, sample, nothing)).toBe(0);
  });

  test("what is no number stays none", () => {
    const base = { probability: 0.001, base: [0.001, 0.9, 0.01] };
    for (const broken of [
      { ...base, adapted: [Number.NaN, Number.NaN, Number.NaN], delta: 1 },
      { ...base, adapted: [0.001, 0.9, 0.01], delta: Number.NaN },
      { probability: Number.NaN, base: [Number.NaN, 1, 1], adapted: [Number.NaN, 0.9, 0.01], delta: 1 },
    ]) {
      expect(estimatedProbability(id, sample, broken)).toBeNaN();
    }
  });
});

test("tokens that are not looked at count as unchanged where those that are have no mass", () => {
  const base = { probability: 0.2, base: [0.2, 0.3, 0] };
  // The adapter doubles the token: its sum is half of what it was, plus the token's.
  const p = estimatedProbability(kinds.other, sample, { ...base, adapted: [0.2, 0.3, 0], delta: Math.log(2) });
  expect(p).toBeCloseTo(0.4 / (0.4 + 0.3 + 0.5), 12);
});

test("what an adapter makes of tokens that hardly have mass counts", () => {
  const base = { probability: 0.2, base: [0.2, 0.8 - 2e-5, 1e-6] };
  const p = estimatedProbability(kinds.other, sample, { ...base, adapted: [0.2, 0.5, 0.1], delta: 0 });
  expect(p).toBeCloseTo(0.2 / (0.2 + 0.5 + 0.1 * sample.share), 12);
});

test("a token that the base gives no probability at all may be likely under an adapter, by the share that is looked at", () => {
  const base = { probability: 0, base: [0, 0.9, 0.01] };
  const p = estimatedProbability(kinds.other, sample, { ...base, adapted: [1e-40, 0.5, 0.01], delta: Math.log(1e40) });
  expect(p).toBeCloseTo(1 / (1 + 0.5 + 0.01 * sample.share), 12);
});
