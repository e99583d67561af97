import { expect, test, vi } from "vitest";
import { GraphBuilder } from "../../../../gpu-backend/runtime/graph.ts";
import {
  addQuantizedMatMuls,
  type QuantizedMatrix,
  quantizeColumns,
} from "../../../../gpu-backend/runtime/quantizer.ts";
import { openSession, tensor } from "../../../../gpu-backend/runtime/session.ts";
import { seededRandom } from "../../../support/steps.ts";

const rows = 132;
const columns = 5;
const seed = 17;

/** Each activation of a row is rounded by at most half a step of length / (63 x 126). Weights are at most `weight`. */
function toleranceOf(row: Float32Array, weight: number): number {
  return rows * weight * (Math.hypot(...row) / 63 / 126 / 2);
}

/** `x`·W for the rounded W. */
function productOf(x: Float32Array, { values, scales }: QuantizedMatrix): number[] {
  return Array.from(scales, (scale, j) => x.reduce((sum, one, i) => sum + one * values[i * columns + j] * scale, 0));
}

test("products of the largest activations and weights do not saturate", async () => {
  const matrix = Float32Array.from({ length: rows * columns }, (_, i) => (i % columns === 0 ? 1 : i % 2 ? -1 : 1));
  const quantized = quantizeColumns(matrix, rows, columns);
  expect(new Set(quantized.values.map(Math.abs))).toEqual(new Set([127]));
  const g = new GraphBuilder("largest");
  const x = g.input("x", "float32", ["M", rows]);
  const products = vi.spyOn(g, "node");
  g.output("y", addQuantizedMatMuls(g)(x, quantized), "float32", ["M", columns]);
  const [, [both]] = products.mock.calls.find(([operator]) => operator === "com.microsoft:MatMulIntegerToFloat")!;
  g.output("parts", both, "uint8", ["M", 2, rows]);
  const session = await openSession(g.bytes(), { threads: 1 });
  // The first part of a lone activation is 63, the kernel's 127. If all are equal, each second part is 61, and two products fill 16 bits.
  const lone = new Float32Array(rows);
  lone[rows / 2] = 1;
  for (const row of [lone, new Float32Array(rows).fill(1)]) {
    const { y, parts } = await session.run({ x: tensor(row, [1, rows]) });
    // A kernel that adds two products in 16 bits saturates above: 2 x 127 x 127 < 2^15.
    expect(Math.max(...(parts.data as Uint8Array))).toBeLessThanOrEqual(127);
    const exact = productOf(row, quantized);
    const difference = Math.max(...exact.map((value, j) => Math.abs(value - (y.data as Float32Array)[j])));
    console.log(`greatest difference of a product ${difference}, tolerance ${toleranceOf(row, 1)}`);
    expect(difference).toBeLessThan(toleranceOf(row, 1));
  }
  await session.release();
});

test("a row of zeros gives zeros and one with NaN gives NaN, which change no bit of the row beside them, which is near the product of the rounded weights", async () => {
  const random = seededRandom(seed);
  const draw = (length: number) => Float32Array.from({ length }, () => random() - 0.5);
  const matrix = draw(rows * columns);
  const row = draw(rows);
  const g = new GraphBuilder("quantized");
  const x = g.input("x", "float32", ["M", rows]);
  const quantized = quantizeColumns(matrix, rows, columns);
  const product = addQuantizedMatMuls(g)(x, quantized);
  g.output("y", product, "float32", ["M", columns]);
  const session = await openSession(g.bytes(), { threads: 1 });
  const run = async (...parts: Float32Array[]) => {
    const x = Float32Array.from(parts.flatMap((part) => [...part]));
    return (await session.run({ x: tensor(x, [parts.length, rows]) })).y.data as Float32Array;
  };
  const alone = await run(row);
  const beside = await run(new Float32Array(rows), row, draw(rows).fill(Number.NaN, 3, 4));
  await session.release();

  const zeros = new Array<number>(columns).fill(0);
  const lost = new Array<number>(columns).fill(Number.NaN);
  expect([...beside].map((y) => y + 0)).toEqual([...zeros, ...alone, ...lost]);
  const difference = Math.max(...productOf(row, quantized).map((value, j) => Math.abs(value - alone[j])));
  const tolerance = toleranceOf(row, 1 / 2);
  console.log(`greatest difference of a product in two parts ${difference}, tolerance ${tolerance}`);
  expect(difference).toBeLessThan(tolerance);
});
