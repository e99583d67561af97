import { expect, test } from "vitest";
import { GraphBuilder } from "../../../../gpu-backend/runtime/graph.ts";
import { addQuantizedMatMuls, largestPairSum, quantizeColumns } from "../../../../gpu-backend/runtime/quantizer.ts";
import { openSession, tensor } from "../../../../gpu-backend/runtime/session.ts";
import { seededRandom } from "../../../support/steps.ts";

const rows = 48;
const columns = 5;
const seed = 17;

/** Pairs of weights at the ends of the range, with equal and with opposite signs. */
const pairs = [
  [1, 1],
  [-1, -1],
  [1, -1],
  [1, 0.9],
  [0.3, 0.3],
];

test("no pair of weights can saturate 16 bits, and products of the largest activations are exact integers", async () => {
  const random = seededRandom(seed);
  const matrix = Float32Array.from({ length: rows * columns }, (_, i) => {
    const row = Math.floor(i / columns);
    return i % columns < 4 && row < 2 * pairs.length ? pairs[row >> 1][row % 2] : random() - 0.5;
  });
  const quantized = quantizeColumns(matrix, rows, columns);
  const at = (i: number, j: number) => quantized.values[i * columns + j];
  let largest = 0;
  for (let i = 0; i < rows; i += 2) {
    for (let j = 0; j < columns; j++) largest = Math.max(largest, Math.abs(at(i, j) + at(i + 1, j)));
  }
  expect(largest).toBeLessThanOrEqual(largestPairSum);
  expect(255 * largestPairSum).toBeLessThan(2 ** 15);
  // The bound is nearly reached: the ranges are no coarser than they need to be.
  expect(largest).toBeGreaterThan(largestPairSum - 3);
  // The kernel sees this row of the largest activations as 255s. Its sums are integers that float32 holds.
  const g = new GraphBuilder("largest");
  const x = g.input("x", "float32", ["M", rows]);
  const whole = { ...quantized, scales: new Float32Array(columns).fill(1) };
  g.output("y", addQuantizedMatMuls(g, x)(x, whole), "float32", ["M", columns]);
  const session = await openSession(g.bytes(), { threads: 1 });
  const { y } = await session.run({ x: tensor(new Float32Array(rows).fill(127), [1, rows]) });
  await session.release();
  const exact = Array.from({ length: columns }, (_, j) => {
    let sum = 0;
    for (let i = 0; i < rows; i++) sum += 127 * at(i, j);
    return sum;
  });
  expect([...(y.data as Float32Array)]).toEqual(exact);
});

test("a row of zeros gives zeros, changes no bit of the rows beside it, and they are near the float product", async () => {
  const random = seededRandom(seed);
  const draw = (length: number) => Float32Array.from({ length }, () => random() - 0.5);
  const matrix = draw(rows * columns);
  const row = draw(rows);
  const g = new GraphBuilder("quantized");
  const x = g.input("x", "float32", ["M", rows]);
  const product = addQuantizedMatMuls(g, x)(x, quantizeColumns(matrix, rows, columns));
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
  const exact = alone.map((_, j) => row.reduce((sum, x, i) => sum + x * matrix[i * columns + j], 0));
  const difference = Math.max(...alone.map((y, j) => Math.abs(y - exact[j])));
  // 48 products of at most 1/4, in which both factors are rounded by at most half a step of 1/127.
  const tolerance = 0.03;
  expect(difference).toBeLessThan(tolerance);
});
