/** Prompts of models whose heads have a width that ONNX Runtime's operator for attention refuses. */
import { expect, test } from "vitest";
import { hasChunkOperator } from "../../gpu-backend/runtime/attention-graph.ts";
import { gpt2Config } from "../../gpu-backend/runtime/model-config.ts";
import { createStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import { oracleHidden, oracleLogits } from "../support/oracle.ts";
import { randomWeights } from "../support/random-weights.ts";
import { grownPast, maxDifference, noPast, randomBank, seededRandom, stepOf } from "../support/steps.ts";

const seed = 7;
const tolerance = 1e-4;

test.each([
  [24, false],
  [32, true],
])("a prompt in two chunks is the oracle's, with two heads in %i hidden units", async (hiddenSize, isOperator) => {
  const config = gpt2Config({
    ...{ hiddenSize, heads: 2, layers: 2, vocabularySize: 97, contextTokens: 64 },
    stopIds: [96],
  });
  expect(hasChunkOperator(config)).toBe(isOperator);
  const random = seededRandom(seed);
  const weights = randomWeights(config, random);
  const bank = randomBank(config, 4, 1, random);
  const runner = await createStepRunner({ config, weights, bank, threads: 1 });
  const ids = Array.from({ length: 30 }, () => Math.floor(random() * config.vocabularySize));
  const first = { tokenIds: ids.slice(0, 17), gates: new Float32Array(bank.gates), ...noPast(config) };
  const input = stepOf(config, [first]);
  const past = grownPast(config, first, 0, input, await runner.run(input));
  const rest = { ...first, tokenIds: ids.slice(17), past, pastLength: 17 };
  const output = await runner.run(stepOf(config, [rest], { pastTokens: 64 }));
  const expected = oracleLogits(config, weights, oracleHidden(config, weights, ids).at(-1)!, bank, first.gates);
  const difference = maxDifference(output.scores!, expected);
  expect(difference).toBeLessThan(tolerance);
  await runner.release();
});
