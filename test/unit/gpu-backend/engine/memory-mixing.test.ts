/** Rows mixed with memories, against the plain formula in double precision over the whole vocabulary. */
import { expect, test } from "vitest";
import { type MemorySays, mixMemories, saysOf, sourcesOf } from "../../../../gpu-backend/engine/memory-mixing.ts";
import { logprobOf, sampleToken } from "../../../../gpu-backend/engine/sampler.ts";
import { forbidden, type LogitChange } from "../../../../gpu-backend/engine/sequence.ts";
import { topCandidates } from "../../../../gpu-backend/runtime/step.ts";
import { samplingWith } from "../../../../shared/contracts/sampling.ts";
import { memoryShares, memoryWeight, defaultMemoryRule as rule } from "../../../../shared/math/memory.ts";
import { headRowOf, logSumExp, rankedIds } from "../../../support/fake-runner.ts";
import { seededRandom } from "../../../support/steps.ts";

const seed = 351;
const random = seededRandom(seed);
const V = 300;
/** A memory's answer of 32 neighbours, some of which have the same next token. */
function says(best: number): MemorySays {
  const cosines = Float32Array.from({ length: 32 }, (_, i) => best - 0.01 * i);
  const nextIds = Int32Array.from({ length: 32 }, () => Math.floor(random() ** 2 * V));
  return saysOf({ cosines, nextIds, positions: Int32Array.from(nextIds.keys()) }, rule);
}

function changed(logit: number, { penalty, value }: Omit<LogitChange, "id">): number {
  return (logit > 0 ? logit / penalty : logit * penalty) + value;
}

/**
 * Probabilities [V] of the mixture of the model and the memories after a request's changes. A change that scales the model's odds of a
 * token also scales what memories add to it. A forbidden token has no probability from either.
 */
function reference(plain: Float32Array, memories: MemorySays[], brakes: number[][], changes: LogitChange[]): number[] {
  const isForbidden = (id: number) => changes.some((change) => change.id === id && change.value === forbidden);
  const logits = plain.map((logit, id) => (isForbidden(id) ? -Infinity : logit));
  const sum = logSumExp(logits);
  const model = Array.from(logits, (logit) => Math.exp(logit - sum));
  const weights = memories.map(({ found, probabilities }) =>
    memoryWeight(rule, {
      cosine: found.cosines[0],
      memory: Math.max(...probabilities.values()),
      model: Math.max(...model),
    }),
  );
  const shares = memoryShares(rule, weights, brakes);
  const left = 1 - shares.reduce((total, share) => total + share, 0);
  const mixed = model.map((p, id) => {
    const { penalty, value } = changes.find((change) => change.id === id) ?? { penalty: 1, value: 0 };
    const ofMemories = memories.map(({ probabilities }, m) => {
      const own = probabilities.get(id);
      return own === undefined ? 0 : shares[m] * Math.exp(Math.log(own) * penalty + value);
    });
    const factor = p === 0 ? 0 : Math.exp(changed(logits[id], { penalty, value }) - logits[id]);
    return left * p * factor + ofMemories.reduce((total, more) => total + more, 0);
  });
  const total = mixed.reduce((all, p) => all + p, 0);
  return mixed.map((p) => p / total);
}

const brakes = [
  [0.1, 0.1, 0.4, 0.1],
  [0.05, 0.05, 0.1, 0.1],
];
const cases = [0, 0.3, 1, 2].flatMap((temperature) =>
  [
    [],
    [
      { id: 5, penalty: 1.5, value: -1 },
      { id: 9, penalty: 1, value: forbidden },
      { id: 20, penalty: 1, value: 3 },
    ],
    // These biases act like a request that allows only three tokens.
    [2, 7, 11].map((id) => ({ id, penalty: 1, value: 100 })),
  ].map((changes) => ({ temperature, changes })),
);

test.each(cases)(`equals the formula at temperature $temperature, $changes.length changes (seed ${seed})`, (asked) => {
  const { temperature, changes } = asked;
  const scaled = temperature || 1;
  for (let round = 0; round < 20; round++) {
    const logits = Float32Array.from({ length: V }, () => 12 * random() - 6);
    const memories = [says(0.95), says(0.7)];
    const targetId = memories[0].found.nextIds[3];
    const expected = reference(logits, memories, brakes, changes);
    for (const { id, ...change } of changes) logits[id] = changed(logits[id], change);
    const row = headRowOf(logits, scaled, topCandidates, targetId);
    const request = { changes, targetId, temperature: scaled };
    const { row: mixed, added, total } = mixMemories(row, memories, { rule, brakes }, request);
    const served = Array.from(expected.keys(), (id) => Math.exp(mixed.scores![id] - mixed.logSumExp));
    expect(served.reduce((sum, p) => sum + p, 0)).toBeCloseTo(1, 5);
    served.forEach((p, id) => {
      expect(p).toBeCloseTo(expected[id], 5);
    });
    expect(Math.exp(mixed.targetScore - mixed.logSumExp)).toBeCloseTo(expected[targetId], 5);
    // The candidates are the likeliest tokens after mixing, with their mixed scores.
    const order = rankedIds(mixed.scores!);
    const ranked = order.slice(0, topCandidates);
    expect([...mixed.topIds]).toEqual(ranked);
    expect([...mixed.topScores]).toEqual(ranked.map((id) => mixed.scores![id]));

    const tempered = expected.map((p) => p ** (1 / scaled));
    const all = tempered.reduce((sum, p) => sum + p, 0);
    expect(mixed.scaledLogSumExp).toBeCloseTo(logSumExp(mixed.scores!, 1 / scaled), 4);
    for (const [sampling, nucleus] of [
      [samplingWith({ temperature }), 1],
      [samplingWith({ temperature, top_p: 0.8 }), 0.8],
    ] as const) {
      const uniform = random();
      let [sum, mass] = [0, 0];
      for (const id of order) if (mass < nucleus) mass += tempered[id] / all;
      const drawn = order.find((id) => {
        sum += tempered[id] / all;
        return sum > uniform * (nucleus < 1 ? mass : 1);
      });
      expect(sampleToken(mixed, sampling, uniform)).toBe(temperature === 0 ? order[0] : drawn);
    }
    const tokenId = memories[0].found.nextIds[0];
    if (expected[tokenId] === 0) continue;
    const logprob = logprobOf(mixed, tokenId);
    const drawn = { tokenId, logprob, theta: rule.theta };
    const placeOf = (memory: number, at: number) => ({ document: `${memory}`, start: at, end: at + 1 });
    const sources = sourcesOf({ added, total }, memories, drawn, placeOf);
    const sumOfShares = memories.reduce((part, _, m) => part + (added[m].get(tokenId) ?? 0), 0) / total;
    expect(sources.share).toBeCloseTo(sumOfShares / expected[tokenId], 4);
    expect(sources.passages[0]).toMatchObject({ memory: 0, document: "0", start: 0 });
    expect(sources.passages.length).toBeLessThanOrEqual(3);
  }
});

test("without scores the target and the sum are mixed", () => {
  const logits = Float32Array.from({ length: V }, () => 6 * random());
  const memories = [says(0.9)];
  const targetId = memories[0].found.nextIds[0];
  const one = { targetId, temperature: 1 };
  const row = () => headRowOf(logits, 1, topCandidates, targetId);
  const whole = mixMemories(row(), memories, { rule, brakes }, one).row;
  const bare = mixMemories({ ...row(), scores: null }, memories, { rule, brakes }, one).row;
  expect([bare.targetScore, bare.logSumExp]).toEqual([whole.targetScore, whole.logSumExp]);
});

test("memories that have no key, or whose brake is 0, change no bit", () => {
  const logits = Float32Array.from({ length: V }, () => 6 * random());
  const row = headRowOf(logits, 0.7, topCandidates, 3);
  const none = saysOf({ cosines: new Float32Array(0), nextIds: new Int32Array(0), positions: new Int32Array(0) }, rule);
  for (const [memory, chosen] of [
    [none, [0, 0, 1, 0]],
    [says(0.99), [1, 0, 0, 0]],
  ] as const) {
    const mixing = { rule, brakes: [[...chosen]] };
    const copy = { ...row, scores: logits.slice() };
    const { row: mixed } = mixMemories(copy, [memory], mixing, { targetId: 3, temperature: 0.7 });
    expect(mixed).toEqual({ ...row, scaledLogSumExp: expect.closeTo(row.scaledLogSumExp, 12) });
  }
});
