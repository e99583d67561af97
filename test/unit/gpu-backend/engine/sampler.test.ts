import { expect, test } from "vitest";
import {
  alternativesOf,
  drawsFromCandidates,
  logprobOf,
  type Shaping,
  sampleToken,
} from "../../../../gpu-backend/engine/sampler.ts";
import { topCandidates } from "../../../../gpu-backend/runtime/step.ts";
import { headRowOf, logSumExp, rankedIds } from "../../../support/fake-runner.ts";
import { seededRandom } from "../../../support/steps.ts";

const seed = 1714;
const V = 500;

const rowOf = (logits: Float32Array, temperature: number, K = 8) => headRowOf(logits, temperature, K);
const randomLogits = (spread: number, random = seededRandom(seed)) =>
  Float32Array.from({ length: V }, () => spread * random());

const shaping = (rest: Partial<Shaping>): Shaping => ({ temperature: 1, top_p: 1, top_k: 0, min_p: 0, ...rest });

/** Draws from the same distribution as the sampler, but slowly: sorts everything, cuts, renormalises, cuts again. */
function slowSample(logits: Float32Array, { temperature, top_p, top_k, min_p }: Shaping, uniform: number): number {
  const total = logSumExp(logits, 1 / temperature);
  const all = rankedIds(logits).map((id) => ({ id, probability: Math.exp(logits[id] / temperature - total) }));
  const left = all
    .slice(0, top_k || all.length)
    .filter(({ id }) => min_p === 0 || logits[id] >= logits[all[0].id] + temperature * Math.log(min_p));
  const massOf = (some: typeof all) => some.reduce((sum, { probability }) => sum + probability, 0);
  const leftMass = top_k || min_p ? massOf(left) : 1;
  let mass = 0;
  const nucleus = left.filter(({ probability }) => {
    const isIn = top_p === 1 || mass < top_p * leftMass;
    if (isIn) mass += probability;
    return isIn;
  });
  let sum = 0;
  for (const { id, probability } of nucleus) {
    sum += probability;
    if (sum > uniform * mass) return id;
  }
  return nucleus.at(-1)!.id;
}

test.each([
  shaping({ temperature: 0.7 }),
  shaping({}),
  shaping({ temperature: 2 }),
  shaping({ top_p: 0.9 }),
  shaping({ temperature: 1.3, top_p: 0.999 }),
  shaping({ top_p: 0.05 }),
  shaping({ temperature: 0.01, top_p: 0.5 }),
  shaping({ top_k: 5 }),
  shaping({ top_k: 8, temperature: 1.5 }),
  shaping({ top_k: 100 }),
  shaping({ top_k: V + 1, temperature: 2 }),
  shaping({ min_p: 0.3 }),
  shaping({ min_p: 0.001, temperature: 1.7 }),
  shaping({ top_k: 60, top_p: 0.8 }),
  shaping({ min_p: 0.01, top_p: 0.9, temperature: 1.2 }),
  shaping({ top_k: 40, min_p: 0.05, top_p: 0.95 }),
])("temperature $temperature, top_p $top_p, top_k $top_k, min_p $min_p draws what a full sort draws", (sampling) => {
  const random = seededRandom(seed);
  for (let i = 0; i < 200; i++) {
    const logits = randomLogits(10 * random(), random);
    const uniform = random();
    const token = sampleToken(rowOf(logits, sampling.temperature), sampling, uniform);
    expect(token, `seed ${seed}, draw ${i}`).toBe(slowSample(logits, sampling, uniform));
  }
});

test("top_k 1, min_p 1, temperature 0 and one too small to divide by are greedy, whatever the logits and the draw", () => {
  const random = seededRandom(seed);
  for (let i = 0; i < 300; i++) {
    const temperature = 0.01 + 2 * random();
    const row = rowOf(randomLogits(10 * random(), random), temperature);
    for (const cut of [{ top_k: 1 }, { min_p: 1 }, { top_k: 3, min_p: 1, top_p: 0.5 }]) {
      expect(sampleToken(row, shaping({ temperature, ...cut }), random())).toBe(row.topIds[0]);
    }
    for (const cut of [{ temperature, top_k: 1 }, { temperature: 0 }, { temperature: 1e-30 }]) {
      expect(sampleToken({ ...row, scores: null }, shaping(cut), random())).toBe(row.topIds[0]);
    }
  }
});

test("top_k within the candidates needs no logits, beyond them it does", () => {
  const random = seededRandom(seed);
  for (let i = 0; i < 100; i++) {
    const row = rowOf(randomLogits(10 * random(), random), 1, topCandidates);
    const [sampling, uniform] = [shaping({ top_k: 1 + Math.floor(topCandidates * random()), top_p: 0.95 }), random()];
    expect(drawsFromCandidates(sampling)).toBe(true);
    expect(sampleToken({ ...row, scores: null }, sampling, uniform)).toBe(sampleToken(row, sampling, uniform));
  }
  for (const sampling of [shaping({}), shaping({ top_k: topCandidates + 1 }), shaping({ min_p: 0.5 })]) {
    expect(drawsFromCandidates(sampling)).toBe(false);
  }
});

test("equal logits rank by id, top_k cuts them by id, and the ends of [0, 1) draw the ends", () => {
  const row = rowOf(new Float32Array(20).fill(1), 1);
  const drawn = Array.from({ length: 12 }, (_, i) => sampleToken(row, shaping({ top_k: 12 }), (i + 0.5) / 12));
  expect(drawn).toEqual(Array.from({ length: 12 }, (_, i) => i));
  expect([0, 0.5001, 1 - 2 ** -53].map((uniform) => sampleToken(row, shaping({}), uniform))).toEqual([0, 10, 19]);
});

test("a wide gap below the top K is bridged, and a banned token is never drawn", () => {
  const logits = Float32Array.from({ length: 30 }, (_, id) => (id < 8 ? 0 : -50 - id));
  logits[29] = -1e9;
  const row = rowOf(logits, 1);
  expect(sampleToken(row, shaping({}), 1 - 2 ** -53)).toBe(7);
  // A log-sum-exp that is too large makes probabilities too small, so the draw reaches the end of the candidates.
  const token = sampleToken({ ...row, scaledLogSumExp: row.scaledLogSumExp + 1 }, shaping({}), 0.9999);
  expect(token).toBe(7);
});

test("logprobs and alternatives are of the distribution at temperature 1", () => {
  const logits = randomLogits(6);
  const row = rowOf(logits, 0.5);
  const ids = rankedIds(logits);
  const expected = (id: number) => logits[id] - logSumExp(logits);
  expect(alternativesOf(row, 3)).toEqual(ids.slice(0, 3).map((id) => [id, expected(id)]));
  expect(logprobOf(row, ids[0])).toBe(expected(ids[0]));
  expect(logprobOf(row, ids[100])).toBe(expected(ids[100]));
  expect(() => logprobOf({ ...row, scores: null }, ids[100])).toThrow(/not among the top 8/);
});

test("a token whose score is -Infinity is never drawn, and its logprob can be sent", () => {
  const logits = randomLogits(4).fill(Number.NEGATIVE_INFINITY, 3);
  const row = rowOf(logits, 1);
  const random = seededRandom(seed);
  for (let i = 0; i < 200; i++) expect(sampleToken(row, shaping({}), random())).toBeLessThan(3);
  const sent = JSON.parse(JSON.stringify([logprobOf(row, 7), alternativesOf(row, 8)]));
  expect(sent).toEqual([expect.any(Number), Array(8).fill([expect.any(Number), expect.any(Number)])]);
});
