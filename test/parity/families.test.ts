/** Graphs of every family against the plain forward pass: a prompt whole, in chunks, and token by token beside other rows. */
import { expect, test } from "vitest";
import { hasChunkOperator } from "../../gpu-backend/runtime/attention-graph.ts";
import type { ModelConfig } from "../../gpu-backend/runtime/model-config.ts";
import { minPrefillTokens } from "../../gpu-backend/runtime/step.ts";
import { createTrunkRunner } from "../../gpu-backend/runtime/trunk-runner.ts";
import { gpt2Config } from "../support/gpt2-config.ts";
import { oracleHidden, oracleLogits } from "../support/oracle.ts";
import { randomWeights } from "../support/random-weights.ts";
import { createStepRunner } from "../support/step-runner.ts";
import { grownPast, maxDifference, noPast, randomBank, type StepRow, seededRandom, stepOf } from "../support/steps.ts";
import { tinyFamilies, tinyLlama } from "../support/tiny-families.ts";

const seed = 34;
/** Error of hidden states in float32 against float64. The states are about 1. */
const tolerance = 2e-5;
/** Positions where a chunk of the prompt ends. The tokens after the last chunk are computed over the keys and values of these chunks. */
const chunkEnds = [20, 33];

/** A GPT-2 with two heads. */
const withHeads = (hiddenSize: number) =>
  gpt2Config({ hiddenSize, heads: 2, layers: 2, vocabularySize: 97, contextTokens: 64, stopIds: [96] });
const families: [string, ModelConfig, hasOperator?: boolean][] = [
  ...Object.entries(tinyFamilies),
  // ONNX Runtime's attention operator refuses heads of this width.
  ["heads of 12", withHeads(24), false],
  ["heads of 16", withHeads(32), true],
];

test.each(families)("%s", async (name, config, hasOperator) => {
  if (hasOperator !== undefined) expect(hasChunkOperator(config)).toBe(hasOperator);
  const random = seededRandom(seed);
  const weights = randomWeights(config, random, 0.15);
  const bank = randomBank(config, 3, 1, random);
  const draw = (length: number) => Array.from({ length }, () => Math.floor(random() * config.vocabularySize));
  const [ids, otherIds] = [draw(40), draw(40)];
  const { hiddenSize: D, vocabularySize: V } = config;
  const gates = Float32Array.of(1, -2, 0.5, 1);
  const [expected, otherExpected] = [ids, otherIds].map((some) => oracleHidden(config, weights, some));
  let worst = 0;
  const compare = (found: ArrayLike<number>, wanted: ArrayLike<number>) => {
    worst = Math.max(worst, maxDifference(found, wanted));
  };

  const trunk = await createTrunkRunner({ config, weights, threads: 1 });
  const whole = await trunk.hidden(Int32Array.from([...ids, ...otherIds]), 2, ids.length);
  await trunk.release();
  compare(
    whole,
    [...expected, ...otherExpected].flatMap((row) => [...row]),
  );

  const runner = await createStepRunner({ config, weights, bank, threads: 1 });
  /** Computes a prompt chunk by chunk, comparing the state at each chunk's end; returns the row with its past. */
  const prefilled = async (prompt: number[], wanted: ArrayLike<number>[]): Promise<StepRow> => {
    let row: StepRow = { tokenIds: prompt.slice(0, chunkEnds[0]), gates, ...noPast(config) };
    for (const [i, end] of chunkEnds.entries()) {
      const input = stepOf(config, [row], { pastTokens: 64 });
      const output = await runner.run(input);
      compare(output.hidden!, wanted[end - 1]);
      const tokenIds = prompt.slice(end, chunkEnds[i + 1] ?? end + 1);
      row = { tokenIds, gates, past: grownPast(config, row, 0, input, output), pastLength: end };
    }
    return row;
  };
  let rows = [await prefilled(ids, expected), await prefilled(otherIds, otherExpected)];
  for (let position = chunkEnds[1]; position < ids.length; position++) {
    const input = stepOf(config, rows, { pastTokens: 64 });
    const output = await runner.run(input);
    compare(output.hidden!.subarray(0, D), expected[position]);
    compare(output.hidden!.subarray(D), otherExpected[position]);
    rows = rows.map((row, s) => ({
      tokenIds: [[ids, otherIds][s][position + 1] ?? 0],
      gates,
      past: grownPast(config, row, s, input, output),
      pastLength: position + 1,
    }));
    if (position < ids.length - 1) continue;
    compare(output.scores!.subarray(0, V), oracleLogits(config, weights, expected[position], bank, gates));
  }
  await runner.release();
  console.log(`${name}: greatest difference ${worst.toExponential(1)}, tolerance ${tolerance}`);
  expect(worst).toBeLessThan(tolerance);
});

test("the last position of a context can be a chunk of its own, with padding", async () => {
  const config = { ...tinyLlama, contextTokens: 48 };
  const random = seededRandom(seed);
  const weights = randomWeights(config, random, 0.15);
  const bank = randomBank(config, 3, 1, random);
  const ids = Array.from({ length: config.contextTokens }, () => Math.floor(random() * config.vocabularySize));
  const runner = await createStepRunner({ config, weights, bank, threads: 1 });
  const gates = new Float32Array(bank.gates);
  const start: StepRow = { tokenIds: ids.slice(0, -1), gates, ...noPast(config) };
  const input = stepOf(config, [start]);
  const past = grownPast(config, start, 0, input, await runner.run(input));
  const last: StepRow = { tokenIds: ids.slice(-1), gates, past, pastLength: ids.length - 1 };
  const { hidden } = await runner.run(stepOf(config, [last], { tokens: minPrefillTokens, pastTokens: 64 }));
  await runner.release();
  expect(maxDifference(hidden!, oracleHidden(config, weights, ids).at(-1)!)).toBeLessThan(tolerance);
});
