/** Measuring memories: which text is known, how a rule scores the readings of models, and that the fit is at a minimum. */
import { expect, test } from "vitest";
import { automaticMixture } from "../../../edge/plan/mixture.ts";
import { artifactsOf } from "../../../gpu-backend/engine/artifacts.ts";
import { expertsOf, type Observation } from "../../../gpu-backend/research/mixtures.ts";
import { ownGroupOf } from "../../../gpu-backend/research/own/evaluate.ts";
import { fitWeights } from "../../../gpu-backend/research/own/fit.ts";
import {
  developmentKinds,
  firstTokens,
  freshKinds,
  kindOf,
  promptTokens,
  readPositions,
  scoredTokens,
} from "../../../gpu-backend/research/own/kinds.ts";
import { afterPassages, memoryOf } from "../../../gpu-backend/research/own/read-kind.ts";
import { type ModelReading, scoreKind, suggestedTokens } from "../../../gpu-backend/research/own/score.ts";
import { averageOf, quantile, rowOf } from "../../../gpu-backend/research/statistics.ts";
import { overDraws, type TaskRow, taskTable } from "../../../gpu-backend/research/tasks/evaluate.ts";
import { readServedBank } from "../../../gpu-backend/training/bank/served-bank.ts";
import { readLock } from "../../../gpu-backend/training/corpus/lock.ts";
import { isAutoOff } from "../../../shared/artifacts/manifest.ts";
import { promptEmbedding, rankCentroids } from "../../../shared/math/assignment.ts";
import { defaultMemoryRule, memoryWeight } from "../../../shared/math/memory.ts";
import { embeddedBase } from "../../support/embedded-base.ts";
import { seededRandom } from "../../support/steps.ts";

const letters = {
  encode: (written: string) => [...written].map((letter) => letter.charCodeAt(0)),
  pieceOf: (id: number) => Uint8Array.of(id),
};

test("kinds of the lock: ten of development, and the twelve lowest hashes of those that nothing was trained or chosen on", async () => {
  const { lock } = await readLock();
  const fresh = freshKinds(lock.corpora);
  expect(fresh).toHaveLength(12);
  expect(fresh.slice(0, 3)).toEqual(["cpp-reference", "python-programs", "acronyms"]);
  for (const name of fresh) expect(["new", "left-out"]).toContain(lock.corpora.find((one) => one.name === name)!.role);
  const names = lock.corpora.map(({ name }) => name);
  for (const name of developmentKinds) expect(names).toContain(name);
});

test("no document is both known and measured, and documents with which adapters were chosen are neither", () => {
  const documents = Array.from({ length: 100 }, (_, i) => ({ name: `${i}`, text: `${100 + i} `.repeat(192) }));
  const namesOf = (isTrained: boolean) => {
    const kind = kindOf("fresh", "a", documents, { isTrained, tokenizer: letters, texts: 40 });
    expect(kind.texts.every(({ ids }) => ids.length === promptTokens + scoredTokens)).toBe(true);
    expect(kind.known.reduce((sum, { ids }) => sum + ids.length, 0)).toBe(6000);
    const [known, measured] = [kind.known, kind.texts].map((texts) => new Set(texts.map(({ document }) => document)));
    expect(known.intersection(measured).size).toBe(0);
    return { known: known.size, measured: measured.size };
  };
  // The 6,000 known tokens are 23 excerpts of 256 tokens and one of 112, each from a document of its own.
  expect(namesOf(false)).toEqual({ known: 24, measured: 20 });
  expect(namesOf(true).measured).toBe(10);
  const short = documents.slice(0, 5);
  const options = { isTrained: false, tokenizer: letters, texts: 1 };
  expect(() => kindOf("fresh", "short", short, options)).toThrow(/short has \d+ tokens to know; 6000/);
});

test("less known text is the beginning of more, and so is its memory", () => {
  const random = seededRandom(5);
  const texts = [40, 40, 40].map((length, i) => ({
    document: `${i}`,
    ids: Array.from({ length }, (_, t) => 100 * i + t),
    states: Float32Array.from({ length: length * 4 }, () => random() - 0.5),
  }));
  const first = firstTokens(texts, 60);
  expect(first.map(({ ids }) => ids.length)).toEqual([40, 20]);
  const all = memoryOf(texts, 4);
  expect(all.nextIds).toHaveLength(3 * 39);
  // A document's last token has no next token.
  expect([...all.nextIds.subarray(38, 41)]).toEqual([39, 101, 102]);
  const part = memoryOf(first, 4);
  expect(part.nextIds).toEqual(all.nextIds.subarray(0, 39 + 19));
  expect(part.keys).toEqual(all.keys.subarray(0, (39 + 19) * 4));
});

test("a text goes after the passage whose mean state is nearest to its prompt's", () => {
  const excerpts = [
    { document: "a", ids: [1, 1], hidden: Float32Array.of(1, 0, 1, 0) },
    { document: "b", ids: [2, 2, 2], hidden: Float32Array.of(0, 1, 0, 1, 0, 1) },
  ];
  const ids = new Array(promptTokens + 1).fill(7);
  const hidden = Float32Array.from({ length: 2 * ids.length }, (_, i) => (i % 2 ? 3 : 1));
  const [after] = afterPassages([{ document: "c", ids, hidden }], excerpts, 2);
  expect(after.ids).toEqual([2, 2, 2, ...ids]);
});

const P = readPositions.length;
const target = 5;
const targets = new Int32Array(P).fill(target);

/** The base gives each target a probability of .1 and another token .5. All neighbours in the memory have the next token `nextId`. */
function readingsOf(cosine: number, nextId: number) {
  const K = defaultMemoryRule.neighbours;
  const fill = (value: number, length = P) => new Float32Array(length).fill(value);
  const found = { cosines: fill(cosine, K), nextIds: new Int32Array(K).fill(nextId) };
  const reading = (): ModelReading => ({
    ...{ logprobs: fill(Math.log(0.1)), topLogprobs: fill(Math.log(0.5)), topIds: new Int32Array(P).fill(9) },
    otherLogprobs: fill(Math.log(nextId === target ? 0.1 : 0.2), K * P),
    memories: { own: new Array(P).fill(found) },
  });
  const [base, fixed, mixture, adapter, auto, both, passage] = Array.from({ length: 7 }, reading);
  return { base, static: fixed, mixture, adapter, auto, both, passage };
}

test("a memory that knows what comes gains and is right, one that does not is braked", () => {
  const [score] = scoreKind(readingsOf(0.97, target), { model: "base", memory: "own" }, targets, defaultMemoryRule);
  const weight = memoryWeight(defaultMemoryRule, { cosine: 0.97, memory: 1, model: 0.5 });
  // After 32 tokens that the memory predicted, its weight is multiplied by the maximum, 1.6.
  const share = Math.min(0.9, 1.6 * weight);
  expect(Math.exp(score.logprobs[0])).toBeCloseTo(0.1 + share * 0.9, 3);
  expect(score.logprobs).toHaveLength(scoredTokens);
  expect(suggestedTokens(score.correct)).toBe(32);
  const [wrong] = scoreKind(readingsOf(0.97, 6), { model: "base", memory: "own" }, targets, defaultMemoryRule);
  expect(wrong.logprobs[0]).toBeLessThan(Math.log(0.1));
  expect(wrong.logprobs[0]).toBeGreaterThan(Math.log(0.1) - 1e-3);
  expect(suggestedTokens(wrong.correct)).toBe(0);
  const [alone] = scoreKind(readingsOf(0.97, target), { model: "base" }, targets, defaultMemoryRule);
  expect([alone.logprobs[0], alone.correct[0]]).toEqual([Math.fround(Math.log(0.1)), 0]);
});

test("the fit is at a minimum, and trusts a memory more the nearer its keys are", () => {
  const seed = 11;
  console.log(`seed ${seed}`);
  const random = seededRandom(seed);
  // At cosine s a memory of the document's own is right with probability s²; a foreign memory never is.
  const observed = (isOwn: boolean): Observation[] =>
    Array.from({ length: 3000 }, () => {
      const cosine = isOwn ? 0.7 + 0.3 * random() : 0.5 + 0.3 * random();
      const isRight = isOwn && random() < cosine ** 2;
      return { cosine, memory: 0.2 + 0.8 * random(), model: random(), ofMemory: isRight ? 0.8 : 0, ofModel: 0.1 };
    });
  const [own, foreign] = [[observed(true), observed(true)], [observed(false)]];
  const fitted = fitWeights(defaultMemoryRule, own, foreign);
  const meanLoss = (weights: typeof fitted.weights, lists: Observation[][]) =>
    lists.reduce((sum, list) => {
      const losses = list.map((one) => {
        const share = Math.min(fitted.maxShare, memoryWeight({ ...fitted, weights }, one));
        return -Math.log(one.ofModel + share * (one.ofMemory - one.ofModel));
      });
      return sum + losses.reduce((a, b) => a + b, 0) / list.length / lists.length;
    }, 0);
  const loss = (weights: typeof fitted.weights) => meanLoss(weights, own) + meanLoss(weights, foreign);
  const least = loss(fitted.weights);
  expect(least).toBeLessThan(loss(defaultMemoryRule.weights) - 0.05);
  for (let i = 0; i < 6; i++) {
    for (const step of [-0.3, 0.3]) {
      const moved = fitted.weights.map((weight, j) => (i === j ? weight + step : weight));
      expect(loss(moved as unknown as typeof fitted.weights)).toBeGreaterThan(least - 1e-4);
    }
  }
  const at = (cosine: number) => memoryWeight(fitted, { cosine, memory: 0.6, model: 0.5 });
  expect(at(0.95)).toBeGreaterThan(0.5);
  expect(at(0.6)).toBeLessThan(0.05);
});

test("rows and means follow from the scores, over the base and over each other", () => {
  const text = { document: "d", ids: new Array(promptTokens + scoredTokens).fill(65) };
  const level = (logprob: number) => [0, 1].map(() => new Float64Array(scoredTokens).fill(logprob));
  const first = (count: number) => [0, 1].map(() => Array.from({ length: scoredTokens }, (_, i) => Number(i < count)));
  const scored = (name: string, gain: number) => ({
    ...{ group: "fresh", name, texts: [text, { ...text, document: "e" }] },
    logprobs: { base: level(-2), mixture: level(-1.5), "mixture, own": level(-2 + gain) },
    correct: { base: first(0), mixture: first(1), "mixture, own": first(48) },
  });
  const kinds = [scored("a", 1), scored("b", 0.25), scored("c", 0.5)];
  const row = rowOf(kinds[0], ["mixture, own over mixture"], letters);
  expect(row.base.nats).toBe(2);
  expect(row.base.bitsPerByte).toBeCloseTo(2 / Math.LN2, 12);
  expect(row.gains["mixture, own over mixture"].mean).toBe(0.5);
  const { gains, suggested } = ownGroupOf(kinds, letters);
  const own = gains["mixture, own"];
  expect(own.gain.mean).toBeCloseTo(1.75 / 3, 12);
  expect(own.median).toBe(0.5);
  expect(own.lowest).toEqual({ name: "b", gain: 0.25 });
  expect(own.lowTexts).toEqual([0.25, 0.25]);
  expect(own.accuracy!.mean).toBe(0.5);
  expect(gains["mixture, own over mixture"].gain.mean).toBeCloseTo(1.75 / 3 - 0.5, 12);
  expect(suggested["mixture, own"]).toBe(32);
  expect(suggested.mixture).toBe(1);
  expect(quantile([4, 0, 2], 0.25)).toBe(1);
});

test("the adapter among a prompt's experts has the prior that the edge gives it, in place of the farthest centroid", async () => {
  const served = await readServedBank(artifactsOf(embeddedBase));
  const promptIds = Array.from({ length: 64 }, (_, i) => 40 * i + 300);
  const embedding = promptEmbedding(promptIds, served.table);
  const D = served.manifest.model.hiddenSize;
  const delta = { a: new Float32Array(8 * D), b: new Float32Array(8 * D), c: new Float32Array(D) };
  const { all, priors } = expertsOf(promptIds, served, { delta, centroid: embedding });
  const nearest = rankCentroids(embedding, served.adapters.centroids).map(({ index, similarity }) => {
    const centroid = served.manifest.centroids[index];
    return { id: centroid.id, ownHash: null, similarity, gain: null, isOff: isAutoOff(centroid) };
  });
  const similarity = embedding.reduce((sum, x) => sum + x * x, 0);
  const own = { id: "own", ownHash: "hash", similarity, gain: null, isOff: false };
  const { request, experts } = automaticMixture(nearest, served.manifest, { tokens: promptIds.length }, [own]);
  expect(priors[0]).toBeCloseTo(request.base, 12);
  const planned = new Map(experts.map(({ id }, e) => [id, request.adapters[e].weight]));
  expect(priors[1]).toBeCloseTo(planned.get("static")!, 12);
  expect(priors[all.findIndex((expert) => expert.own === 1)]).toBeCloseTo(planned.get("own")!, 12);
  expect(priors).toHaveLength(1 + experts.length);
});

test("shares of errors and their intervals come from draws of examples and of the texts that all draws share", () => {
  const score = (right: number[]) => ({ right, calibrationError: 0 });
  const row = (seed: number, own: number[]): TaskRow => ({
    ...{ set: "a", examples: 8, seed },
    ...{ zeroShot: score([0, 0, 0, 1]), fewShot: { ...score([1, 0]), shown: 8 } },
    own: { ...score(own), kept: true },
  });
  const right = (way: "own" | "zeroShot", draw: Parameters<Parameters<typeof overDraws>[2]>[0]) =>
    draw.flatMap(({ row, texts }) => texts.map((n) => row[way].right[n]));
  const same = [1, 1, 1, 1];
  const drawn = (...own: number[][]) =>
    overDraws(
      own.map((one, i) => row(i + 1, one)),
      "zeroShot",
      (draw) => averageOf(right("own", draw)),
    );
  expect(drawn(same, same)).toEqual({ mean: 1, ci95: [1, 1] });
  expect(drawn(same, [0, 0, 0, 0])).toEqual({ mean: 0.5, ci95: [0, 1] });
  const table = taskTable([row(1, [1, 1, 0, 1])]);
  // The adapter removes two of three errors. The prompt with examples answered two texts: the adapter has both right, the prompt one.
  expect(table).toMatch(/\| a, 8 \| 0.250 \| 0.500 \(8\) \| 0.750 \| 0.667 .*\| 50.000 /);
});
