import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
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

test("a window's states are those that predict its scored tokens, and finished passes are not computed again", async () => {
  const folder = await mkdtemp(join(tmpdir(), "hidden-"));
  const many = Array.from({ length: 9 }, (_, i) => ({ ...windows[i % 2] }));
  const controller = new AbortController();
  const afterOnePass = { ...silent, advance: () => controller.abort(new Error("interrupted")) };
  const opened = open(folder, many, trunk, afterOnePass, controller.signal);
  await expect(opened).rejects.toThrow("interrupted");
  let passes = 0;
  const counted = { ...trunk, hidden: (ids: Int32Array) => trunk.hidden(ids).finally(() => passes++) };
  const states = await open(folder, many, counted, silent);
  expect(passes).toBe(1);
  for (const window of many) {
    const read = await states.read(window);
    const ids = window.tokenIds.subarray(prefixTokens - 1, -1);
    expect([...read]).toEqual([...ids].flatMap((id) => [id, 7]));
    expect(ids).toHaveLength(scoredTokens(window));
  }
  const failing = () => Promise.reject(new Error("computed again"));
  await HiddenStates.open(folder, "key", many, D, failing, silent);
  await rm(folder, { recursive: true });
});

function open(folder: string, of: typeof windows, by: typeof trunk, progress: Progress, signal?: AbortSignal) {
  return HiddenStates.open(folder, "key", of, D, async () => by, progress, signal);
}

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
