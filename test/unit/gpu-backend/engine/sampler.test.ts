import { describe, expect, test } from "vitest";
import { alternativesOf, type HeadResult, logprobOf, sampleToken } from "../../../../gpu-backend/engine/sampler.ts";
import { uniformAt } from "../../../../shared/math/sampling.ts";
import { seededRandom } from "../../../support/steps.ts";

const seed = 1714;
const V = 500;

function rowOf(logits: Float32Array, temperature: number, K = 8): HeadResult {
  const ranked = rankedIds(logits).slice(0, K);
  return {
    topIds: Int32Array.from(ranked),
    topLogits: Float32Array.from(ranked, (id) => logits[id]),
    logSumExp: logSumExp(logits, 1),
    scaledLogSumExp: logSumExp(logits, 1 / temperature),
    targetLogit: 0,
    logits,
  };
}
const rankedIds = (logits: Float32Array) => Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
function logSumExp(logits: Float32Array, scale: number): number {
  const highest = scale * logits.reduce((a, b) => Math.max(a, b));
  return highest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit * scale - highest), 0));
}
const randomLogits = (spread: number, random = seededRandom(seed)) =>
  Float32Array.from({ length: V }, () => spread * random());

/** The same definition, done slowly: sort everything, cut the nucleus, invert the distribution. */
function slowSample(logits: Float32Array, temperature: number, topP: number, uniform: number): number {
  const ids = rankedIds(logits);
  const total = logSumExp(logits, 1 / temperature);
  const nucleus: { id: number; probability: number }[] = [];
  let mass = 0;
  for (const id of ids) {
    const probability = Math.exp(logits[id] / temperature - total);
    nucleus.push({ id, probability });
    mass += probability;
    if (topP < 1 && mass >= topP) break;
  }
  let sum = 0;
  for (const { id, probability } of nucleus) {
    sum += probability;
    if (sum > uniform * mass) return id;
  }
  return nucleus.at(-1)!.id;
}

describe("sampleToken", () => {
  test.each([
    [0.7, 1],
    [1, 1],
    [2, 1],
    [1, 0.9],
    [1.3, 0.999],
    [1, 0.05],
    [0.01, 0.5],
  ])(
    "at temperature %d and top_p %d draws what a full sort draws, inside the top K and beyond",
    (temperature, topP) => {
      const random = seededRandom(seed);
      let beyond = 0;
      for (let i = 0; i < 200; i++) {
        const logits = randomLogits(10 * random(), random);
        const uniform = random();
        const token = sampleToken(rowOf(logits, temperature), { temperature, topP }, uniform);
        expect(token, `seed ${seed}, draw ${i}`).toBe(slowSample(logits, temperature, topP, uniform));
        if (rankedIds(logits).indexOf(token) >= 8) beyond++;
      }
      console.log(`temperature ${temperature}, top_p ${topP}: ${beyond} of 200 draws beyond the top 8`);
    },
  );

  test("draws each token as often as its probability says", () => {
    const logits = Float32Array.from([2, 1, 0, -1, -1, -3, 0.5, 1.5, -2, 0]);
    const temperature = 0.8;
    const row = rowOf(logits, temperature, 4);
    const draws = 20_000;
    const counts = new Float64Array(logits.length);
    for (let i = 0; i < draws; i++) counts[sampleToken(row, { temperature, topP: 1 }, uniformAt(seed, i))]++;
    const expected = logits.map((logit) => draws * Math.exp(logit / temperature - row.scaledLogSumExp));
    const chiSquare = expected.reduce((sum, count, id) => sum + (counts[id] - count) ** 2 / count, 0);
    console.log(`χ² ${chiSquare.toFixed(1)} at 9 degrees of freedom (99.9% quantile 27.9), seed ${seed}`);
    expect(chiSquare).toBeLessThan(27.9);
  });

  test("greedy takes the first, without logits; so does a temperature too small to divide by", () => {
    const row = { ...rowOf(randomLogits(5), 1), logits: null };
    expect(sampleToken(row, { temperature: 0, topP: 1 }, 0.99)).toBe(row.topIds[0]);
    expect(sampleToken(row, { temperature: 1e-30, topP: 1 }, 0.99)).toBe(row.topIds[0]);
  });

  test("equal logits rank by id, and the ends of [0, 1) draw the ends", () => {
    const logits = new Float32Array(20).fill(1);
    const row = rowOf(logits, 1);
    expect(sampleToken(row, { temperature: 1, topP: 1 }, 0)).toBe(0);
    expect(sampleToken(row, { temperature: 1, topP: 1 }, 0.5001)).toBe(10);
    expect(sampleToken(row, { temperature: 1, topP: 1 }, 1 - 2 ** -53)).toBe(19);
  });

  test("a wide gap below the top K is bridged, and a banned token is never drawn", () => {
    const logits = Float32Array.from({ length: 30 }, (_, id) => (id < 8 ? 0 : -50 - id));
    logits[29] = -1e9;
    const row = rowOf(logits, 1);
    expect(sampleToken(row, { temperature: 1, topP: 1 }, 1 - 2 ** -53)).toBe(7);
    // A log-sum-exp that claims more mass than there is sends the walk to the end.
    const token = sampleToken(
      { ...row, scaledLogSumExp: row.scaledLogSumExp + 1 },
      { temperature: 1, topP: 1 },
      0.9999,
    );
    expect(token).toBe(7);
  });
});

test("logprobs and alternatives are of the distribution at temperature 1", () => {
  const logits = randomLogits(6);
  const row = rowOf(logits, 0.5);
  const ids = rankedIds(logits);
  const expected = (id: number) => logits[id] - logSumExp(logits, 1);
  expect(alternativesOf(row, 3)).toEqual(ids.slice(0, 3).map((id) => [id, expected(id)]));
  expect(logprobOf(row, ids[0])).toBe(expected(ids[0]));
  expect(logprobOf(row, ids[100])).toBe(expected(ids[100]));
  expect(() => logprobOf({ ...row, logits: null }, ids[100])).toThrow(/not among the top 8/);
});
