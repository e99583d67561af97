import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { gatherBatch, runsOf, wholeWindow } from "../../../gpu-backend/training/bank/batches.ts";
import { prefixTokens, scoredTokens } from "../../../gpu-backend/training/corpus/windows.ts";
import { HiddenStates } from "../../../gpu-backend/training/hidden-states.ts";
import type { Progress } from "../../../gpu-backend/training/progress.ts";
import { Random } from "../../../gpu-backend/training/random.ts";

const silent: Progress = { stage() {}, advance() {}, note() {}, end() {} };
const D = 2;
const lengths = [prefixTokens + 30, prefixTokens + 50];
const windows = lengths.map((length, document) => ({
  corpus: 0,
  document,
  tokenIds: Int32Array.from({ length }, (_, t) => 100 * document + t),
}));
/** Its hidden state of a token is the token's id, and 7. */
const trunk = {
  hidden: async (ids: Int32Array) => Float32Array.from({ length: ids.length * D }, (_, i) => (i % D ? 7 : ids[i / D])),
  release: async () => {},
};

test("a batch holds the tokens that were asked for, each with the state that predicts it and its window", async () => {
  const folder = await mkdtemp(join(tmpdir(), "batches-"));
  const states = await HiddenStates.open(join(folder, "hidden.f16"), windows, D, async () => trunk, silent);
  const set = { windows, states, firstState: 0 };
  const parts = [{ index: 1, tokens: Int32Array.of(0, 3, 49) }, wholeWindow(set, 0)];
  const { hidden, targets, windowOf } = await gatherBatch(set, parts, D);
  const expected = [0, 3, 49].map((token) => 100 + prefixTokens + token);
  for (let token = 0; token < scoredTokens(windows[0]); token++) expected.push(prefixTokens + token);
  expect([...targets]).toEqual(expected);
  expect([...windowOf]).toEqual(expected.map((_, row) => (row < 3 ? 0 : 1)));
  for (const [row, id] of expected.entries()) expect([...hidden.subarray(row * D, (row + 1) * D)]).toEqual([id - 1, 7]);
  await states.close();
  await rm(folder, { recursive: true });
});

test("runs keep the order, and only a single window may be too much for one", () => {
  const tokens = [10, 900, 10, 10, 500, 490, 10];
  const runs = runsOf(tokens, (count) => count, 10_000);
  expect(runs.flat()).toEqual(tokens);
  for (const run of runs) {
    if (run.length > 1) expect(run.reduce((sum, count) => sum + count, 0)).toBeLessThanOrEqual(800);
  }
});

test("a subset is drawn evenly, rises and repeats nothing", () => {
  const seed = 3;
  const random = new Random(seed, 0);
  const drawn = new Int32Array(20);
  for (let draw = 0; draw < 2000; draw++) {
    const subset = random.subset(20, 5);
    expect([...subset]).toEqual([...new Set(subset)].sort((a, b) => a - b));
    expect(subset).toHaveLength(5);
    for (const number of subset) drawn[number]++;
  }
  // Of 2,000 · 5/20 = 500 expected, the deviation is 19.
  for (const count of drawn) expect(Math.abs(count - 500)).toBeLessThan(100);
  expect([...random.subset(4, 9)]).toEqual([0, 1, 2, 3]);
});
