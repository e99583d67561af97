/** The self-test finds what a device computes wrong. The CPU stands for the device, and its results are changed. */
import { beforeAll, expect, test } from "vitest";
import { runSelfTest, testBank, testRows } from "../../../../gpu-backend/engine/self-test.ts";
import { safeRunTokens } from "../../../../gpu-backend/kv/device-runner.ts";
import { HostRunner } from "../../../../gpu-backend/kv/host-runner.ts";
import type { Pass, PassOutput } from "../../../../gpu-backend/kv/runner.ts";
import type { ModelWeights } from "../../../../gpu-backend/runtime/model-weights.ts";
import { randomWeights } from "../../../support/random-weights.ts";
import { createStepRunner } from "../../../support/step-runner.ts";
import { seededRandom } from "../../../support/steps.ts";
import { tinyLlama } from "../../../support/tiny-families.ts";

const longest = 128;
let weights: ModelWeights;
beforeAll(() => {
  weights = randomWeights(tinyLlama, seededRandom(7), 0.25);
});

/** Self-tests a device that the CPU plays. `change` may alter the logits of a pass; `runTokens` is the argument of runSelfTest's `open`. */
function testOf(change: (scores: Float32Array, pass: Pass, runTokens: number) => void) {
  return runSelfTest(async (runTokens) => {
    const bank = testBank(tinyLlama, 8);
    const steps = await createStepRunner({ config: tinyLlama, weights, bank, threads: 1 });
    const runner = new HostRunner(steps, { maxSequences: testRows, chunkTokens: longest, kvBytes: 2 ** 30 });
    if (runTokens === "host") return runner;
    const run = async (pass: Pass): Promise<PassOutput> => {
      const output = await runner.run(pass);
      change(output.scores!, pass, runTokens);
      return output;
    };
    return { config: runner.config, gates: runner.gates, kv: runner.kv, run, release: () => runner.release() };
  }, longest);
}

test("a right device passes", async () => {
  const found = await testOf(() => {});
  expect(found).toMatchObject({ failures: [], switchedOff: [], runTokens: longest, rowsAreIndependent: true });
  expect(found.difference).toBeLessThan(1e-5);
});

test("wrong long runs are switched off, and the rest is used", async () => {
  const found = await testOf((scores, { phase }, runTokens) => {
    if (phase === "prefill" && runTokens >= 32) scores[5] += 1;
  });
  expect(found).toMatchObject({ failures: [], runTokens: safeRunTokens });
  expect(found.switchedOff).toEqual([
    expect.stringMatching(/^runs of more than 31 tokens of a prompt \(a prompt is .*e-\d/),
  ]);
});

test.each<[what: string, failure: RegExp, isWrong: (pass: Pass) => boolean, by: number]>([
  ["decoding", /^decoding is/, ({ phase }) => phase === "decode", 1],
  ["a NaN", /^a prompt is NaN/, () => true, Number.NaN],
  ["one row of 32", /batch of 32 is/, ({ rows }) => rows.length === 32, 1],
])("%s that is wrong fails by name", async (_, failure, isWrong, by) => {
  const { failures, switchedOff } = await testOf((scores, pass) => {
    if (isWrong(pass)) scores[scores.length - 1] += by;
  });
  expect(failures).toContainEqual(expect.stringMatching(failure));
  expect(switchedOff).toEqual([]);
});

test("rows whose bits depend on the batch pass, and are said to", async () => {
  const found = await testOf((scores, { rows }) => {
    if (rows.length === 4) scores[0] = Math.fround(scores[0] * (1 + 2 ** -22));
  });
  expect(found).toMatchObject({ failures: [], rowsAreIndependent: false });
});
