/** The survey of the base's logits, and the candidates that are chosen by it. */
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { candidatesOf, positionsAmong, Survey } from "../../../gpu-backend/training/bank/candidates.ts";
import { prefixTokens, scoredTokens } from "../../../gpu-backend/training/corpus/windows.ts";
import { Random } from "../../../gpu-backend/training/random.ts";

const seed = 4;
const [V, D] = [40, 6];
const random = new Random(seed, 0);
const values = (length: number) => Float32Array.from({ length }, () => random.normal());
const windows = [30, 25, 40].map((scored, document) => ({
  ...{ corpus: 0, document },
  tokenIds: new Int32Array(prefixTokens + scored),
}));
const hidden = windows.map((window) => values(scoredTokens(window) * D));
const set = { windows, states: { read: async (i: number, into: Float32Array) => into.set(hidden[i]) }, firstState: 0 };
const head = { vocabularySize: V, hiddenSize: D, tokenEmbedding: values(V * D) };
const silent = { stage() {}, advance() {}, note() {}, end() {} };

function logitsOf(state: Float32Array): number[] {
  return Array.from({ length: V }, (_, v) => state.reduce((sum, x, d) => sum + x * head.tokenEmbedding[v * D + d], 0));
}

test("a survey has the sum over all tokens and the likeliest tokens of each position, in every window", async () => {
  const folder = await mkdtemp(join(tmpdir(), "survey-"));
  try {
    const path = join(folder, "survey");
    const stopped = AbortSignal.abort(new Error("stopped"));
    await expect(Survey.open(path, set, head, 1, silent, stopped)).rejects.toThrow("stopped");
    const survey = await Survey.open(path, set, head, 1, silent);
    for (const index of [2, 0, 1]) {
      const { logSums, best } = await survey.read(index);
      expect(best).toHaveLength(scoredTokens(windows[index]));
      for (const [n, ids] of best.entries()) {
        const logits = logitsOf(hidden[index].subarray(n * D, (n + 1) * D));
        const sum = Math.log(logits.reduce((total, x) => total + Math.exp(x), 0));
        expect(Math.abs(logSums[n] - sum), `seed ${seed}`).toBeLessThan(1e-4);
        const ranked = [...logits.keys()].sort((v, w) => logits[w] - logits[v]);
        expect([...ids]).toEqual(ranked.slice(0, ids.length));
      }
    }
    await survey.close();
    expect(await readdir(folder)).toEqual(["survey"]);
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("candidates are all targets, and likely tokens by rank up to their number; targets are found among them", () => {
  const best = [Int32Array.of(9, 3, 7), Int32Array.of(5, 9, 1), Int32Array.of(8, 2, 4)];
  const targets = Int32Array.of(6, 9, 6);
  expect([...candidatesOf(targets, best, 5)]).toEqual([3, 5, 6, 8, 9]);
  expect([...candidatesOf(targets, best, 1)]).toEqual([6, 9]);
  const all = candidatesOf(targets, best);
  expect([...all]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  expect([...positionsAmong(all, targets)].map((place) => all[place])).toEqual([...targets]);
});
