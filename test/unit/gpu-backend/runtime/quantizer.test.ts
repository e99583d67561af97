import { expect, test } from "vitest";
import { GraphBuilder } from "../../../../gpu-backend/runtime/graph.ts";
import { addQuantizedMatMuls, quantizeColumns } from "../../../../gpu-backend/runtime/quantizer.ts";
import { openSession, tensor } from "../../../../gpu-backend/runtime/session.ts";
import { seededRandom } from "../../../support/steps.ts";

const rows = 48;
const columns = 5;
const seed = 17;

test("products of the largest activations and weights are exact integers, which fit 16 bits in pairs", async () => {
  const matrix = Float32Array.from({ length: rows * columns }, (_, i) => (i % columns === 0 ? 1 : i % 2 ? -1 : 1));
  const quantized = quantizeColumns(matrix, rows, columns);
  expect(new Set(quantized.values.map(Math.abs))).toEqual(new Set([127]));
  const g = new GraphBuilder("largest");
  const x = g.input("x", "float32", ["M", rows]);
  const whole = { ...quantized, scales: new Float32Array(columns).fill(1) };
  g.output("y", addQuantizedMatMuls(g, x)(x, whole), "float32", ["M", columns]);
  const session = await openSession(g.bytes(), { threads: 1 });
  // The kernel sees 127, its largest activation, and may add two products in 16 bits: 2 x 127 x 127 < 2^15.
  const { y } = await session.run({ x: tensor(new Float32Array(rows).fill(63), [1, rows]) });
  await session.release();
  const sums = Array.from({ length: columns }, (_, j) =>
    Array.from({ length: rows }, (_, i) => 63 * quantized.values[i * columns + j]).reduce((a, b) => a + b),
  );
  expect([...(y.data as Float32Array)]).toEqual(sums);
});

test("a row of zeros gives zeros, changes no bit of the rows beside it, and they are near the product of the rounded weights", async () => {
  const random = seededRandom(seed);
  const draw = (length: number) => Float32Array.from({ length }, () => random() - 0.5);
  const matrix = draw(rows * columns);
  const row = draw(rows);
  const g = new GraphBuilder("quantized");
  const x = g.input("x", "float32", ["M", rows]);
  const quantized = quantizeColumns(matrix, rows, columns);
  const product = addQuantizedMatMuls(g, x)(x, quantized);
  g.output("y", product, "float32", ["M", columns]);
  const session = await openSession(g.bytes(), { threads: 1 });
  const run = async (...parts: Float32Array[]) => {
    const x = Float32Array.from(parts.flatMap((part) => [...part]));
    return (await session.run({ x: tensor(x, [parts.length, rows]) })).y.data as Float32Array;
  };
  const alone = await run(row);
  const beside = await run(new Float32Array(rows), row, new Float32Array(rows));
  await session.release();

  const zeros = new Array<number>(columns).fill(0);
  expect([...beside].map((y) => y + 0)).toEqual([...zeros, ...alone, ...zeros]);
  const { values, scales } = quantized;
  const exact = alone.map((_, j) => row.reduce((sum, x, i) => sum + x * values[i * columns + j] * scales[j], 0));
  const difference = Math.max(...alone.map((y, j) => Math.abs(y - exact[j])));
  // Each of 48 activations is at most 1/2, and rounded by at most half a step of 1/(2 x 63 x 126). Weights are at most 1/2.
  const tolerance = (48 / 2) * (1 / 2 / 63 / 126 / 2);
  console.log(`greatest difference of a product in two parts ${difference}, tolerance ${tolerance}`);
  expect(difference).toBeLessThan(tolerance);
});
