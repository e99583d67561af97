/**
 * What the benchmark builds for its peers is GPT-2: a wrong graph would be a fast one, and a lie. Here the export for
 * Transformers.js, on a tiny model, against the oracle; the GGUF file is checked by the benchmark itself, which compares
 * first tokens.
 */
import { expect, test } from "vitest";
import { gpt2Weights } from "../../gpu-backend/models/safetensors/gpt2-weights.ts";
import { gpt2Config } from "../../gpu-backend/runtime/model-config.ts";
import { openSession, tensor } from "../../gpu-backend/runtime/session.ts";
import { randomGpt2 } from "../bench/model.ts";
import { buildExportGraph, type ExportFormat } from "../bench/transformers/export-graph.ts";
import { oracleHidden, oracleLogits } from "../support/oracle.ts";
import { maxDifference, randomBank, seededRandom } from "../support/steps.ts";

const config = gpt2Config({
  vocabularySize: 300,
  hiddenSize: 64,
  layers: 2,
  heads: 4,
  contextTokens: 64,
  stopIds: [299],
});
/** Of logits of about 0.2: fp32 rounds, the others quantise. */
const exports: [ExportFormat, number][] = [
  ["fp32", 1e-5],
  ["q8", 0.01],
];
const seed = 7;

test.each(exports)("the %s export continues a left-padded batch as the oracle does", async (format, tolerance) => {
  const random = seededRandom(seed);
  const tensors = randomGpt2(config, random);
  const weights = gpt2Weights(config, tensors);
  const bank = randomBank(config, 1, 0, random);
  const session = await openSession(buildExportGraph(config, tensors, format), { threads: 1 });
  const rows = [
    [5, 17, 203, 41, 9],
    [77, 12, 250, 3],
  ];
  // As Transformers.js feeds it: [S, T], padded on the left, in two passes.
  const ids = (row: number[]) => Array.from({ length: 5 - row.length }, () => 0).concat(row);
  const mask = rows.map((row) => Array.from({ length: 5 }, (_, t) => (t < 5 - row.length ? 0 : 1)));
  const positions = mask.map((row, s) => row.map((on, t) => (on ? t - (5 - rows[s].length) : 1)));
  const matrix = (values: number[][]) =>
    tensor(BigInt64Array.from(values.flat(), BigInt), [values.length, values[0].length]);
  const step = (from: number, to: number) => ({
    input_ids: matrix(rows.map((row) => ids(row).slice(from, to))),
    attention_mask: matrix(mask.map((row) => row.slice(0, to))),
    position_ids: matrix(positions.map((row) => row.slice(from, to))),
  });
  const parts = Array.from({ length: config.layers }, (_, l) => [`${l}.key`, `${l}.value`]).flat();
  const noPast = Object.fromEntries(
    parts.map((part) => [`past_key_values.${part}`, tensor(new Float32Array(0), [2, 4, 0, 16])]),
  );
  const prefilled = await session.run({ ...step(0, 3), ...noPast });
  const past = Object.fromEntries(parts.map((part) => [`past_key_values.${part}`, prefilled[`present.${part}`]]));
  const { logits } = await session.run({ ...step(3, 5), ...past });
  await session.release();

  const V = config.vocabularySize;
  expect(logits.dims).toEqual([2, 2, V]);
  rows.forEach((row, s) => {
    const hidden = oracleHidden(config, weights, row).at(-1)!;
    const expected = oracleLogits(config, weights, hidden, bank, new Float32Array(1));
    const difference = maxDifference(
      (logits.data as Float32Array).subarray((2 * s + 1) * V, 2 * (s + 1) * V),
      expected,
    );
    expect(difference).toBeLessThan(tolerance);
  });
});
