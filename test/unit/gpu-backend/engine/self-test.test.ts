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

/** Self-tests a device that the CPU plays. `change` may alter the output of a pass; `runTokens` is the argument of runSelfTest's `open`. */
function testOf(change: (output: PassOutput, pass: Pass, runTokens: number) => void) {
  return runSelfTest(
    async (runTokens) => {
      const bank = testBank(tinyLlama, 8);
      const steps = await createStepRunner({ config: tinyLlama, weights, bank, threads: 1 });
      const runner = new HostRunner(steps, { maxSequences: testRows, chunkTokens: longest, kvBytes: 2 ** 30 });
      if (runTokens === "host") return runner;
      const run = async (pass: Pass): Promise<PassOutput> => {
        const output = await runner.run(pass);
        change(output, pass, runTokens);
        return output;
      };
      const { config, gates, kv, draftCost } = runner;
      return { config, gates, kv, draftCost, run, release: () => runner.release() };
    },
    longest,
    1e-4,
  );
}

test("a right device passes", async () => {
  const found = await testOf(() => {});
  expect(found).toMatchObject({ failures: [], switchedOff: [], runTokens: longest, rowsAreIndependent: true });
  expect(found.difference).toBeLessThan(1e-5);
});

test.each([
  ["", "a prompt", 0],
  [" over earlier ones", "a prompt's next chunk", 90],
])("wrong long runs%s are switched off, and the rest is used", async (_, name, past) => {
  const found = await testOf(({ scores }, { phase, states }, runTokens) => {
    if (phase === "prefill" && runTokens >= 32 && states[0].position >= past) scores![5] += 1;
  });
  expect(found).toMatchObject({ failures: [], runTokens: safeRunTokens });
  expect(found.switchedOff).toEqual([
    expect.stringMatching(new RegExp(`^runs of more than 31 tokens of a prompt \\(${name} is .*e-\\d`)),
  ]);
});

type Output = "scores" | "topScores" | "topIds" | "logSumExp" | "scaledLogSumExp" | "targetScores";
const always = () => true;

test.each<[what: string, failure: RegExp, isWrong: (pass: Pass) => boolean, output: Output, by: number]>([
  ["decoding", /^decoding is/, ({ phase }) => phase === "decode", "scores", 1],
  ["a NaN", /^a prompt is NaN/, always, "scores", Number.NaN],
  ["one row of 32", /batch of 32 is/, ({ rows }) => rows.length === 32, "scores", 1],
  ["an own adapter", /^an own adapter is/, ({ head }) => head.own !== undefined, "scores", 1],
  ["a row after a move", /^moved rows is/, ({ rows }) => rows.length === 2, "scores", 1],
  ["a row alone", /^a copied row alone is/, ({ rows }) => rows.length === 1, "scores", 1],
  ["the best logit", /^a prompt is/, always, "topScores", 1],
  ["the id of the best logit", /^a prompt is/, always, "topIds", 1],
  ["the sum", /^a prompt is/, always, "logSumExp", 0.1],
  ["the sum at a temperature", /^a prompt is/, always, "scaledLogSumExp", 0.1],
  ["the target's logit", /^a prompt is/, always, "targetScores", 0.1],
])("%s that is wrong fails by name", async (_, failure, isWrong, name, by) => {
  const { failures, switchedOff } = await testOf((output, pass) => {
    if (isWrong(pass)) output[name]![output[name]!.length - 1] += by;
  });
  expect(failures).toContainEqual(expect.stringMatching(failure));
  expect(switchedOff).toEqual([]);
});

test.each([1, 4])("rows whose bits in a batch of %i are others pass, and are said to", async (batch) => {
  const found = await testOf(({ scores }, { phase, rows }) => {
    if (phase === "decode" && rows.length === batch) scores![0] = Math.fround(scores![0] * (1 + 2 ** -22));
  });
  expect(found).toMatchObject({ failures: [], rowsAreIndependent: false });
});
