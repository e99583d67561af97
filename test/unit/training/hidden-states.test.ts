import { expect, test } from "vitest";
import { prefixTokens, scoredTokens } from "../../../gpu-backend/training/corpus/windows.ts";
import { hiddenStatesOf } from "../../../gpu-backend/training/hidden-states.ts";
import type { Progress } from "../../../gpu-backend/training/progress.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const silent: Progress = { stage() {}, advance() {}, note() {}, end() {} };
const D = 2;
const lengths = [prefixTokens + 30, prefixTokens + 50];
const windows = lengths.map((length, document) => ({
  corpus: 0,
  document,
  tokenIds: Int32Array.from({ length }, (_, t) => 100 * document + t),
}));
/** A trunk whose hidden state of a token is the token's id followed by 7s. */
const trunk = {
  hidden: async (ids: Int32Array) => Float32Array.from({ length: ids.length * D }, (_, i) => (i % D ? 7 : ids[i / D])),
  release: async () => {},
};

test("a window's states are those that predict its scored tokens, and finished passes are not computed again", async () => {
  const folder = temporaryFolder();
  const many = Array.from({ length: 9 }, (_, i) => ({ ...windows[i % 2] }));
  const controller = new AbortController();
  const afterOnePass = { ...silent, advance: () => controller.abort(new Error("interrupted")) };
  const interrupted = { threads: 1, folder, progress: afterOnePass, signal: controller.signal };
  await expect(hiddenStatesOf(many, "weights", async () => trunk, interrupted)).rejects.toThrow("interrupted");
  let passes = 0;
  const counted = { ...trunk, hidden: (ids: Int32Array) => trunk.hidden(ids).finally(() => passes++) };
  const run = { threads: 1, folder, progress: silent };
  const statesOf = await hiddenStatesOf(many, "weights", async () => counted, run);
  expect(passes).toBe(1);
  for (const window of many) {
    const ids = window.tokenIds.subarray(prefixTokens - 1, -1);
    expect([...statesOf(window)]).toEqual([...ids].flatMap((id) => [id, 7]));
    expect(ids).toHaveLength(scoredTokens(window));
  }
  const failing = () => Promise.reject(new Error("computed again"));
  expect((await hiddenStatesOf(many, "weights", failing, run))(many[8])).toEqual(statesOf(many[8]));
  await expect(hiddenStatesOf(many, "other weights", failing, run)).rejects.toThrow("computed again");
});
