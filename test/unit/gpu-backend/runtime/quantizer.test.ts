import { expect, test } from "vitest";
import { GraphBuilder } from "../../../../gpu-backend/runtime/graph.ts";
import { addQuantizedMatMuls, quantizeColumns } from "../../../../gpu-backend/runtime/quantizer.ts";
import { openSession, tensor } from "../../../../gpu-backend/runtime/session.ts";
import { seededRandom } from "../../../support/steps.ts";

const rows = 48;
const columns = 5;
const seed = 17;

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

  expect([...beside].map((y) => y + 0)).toEqual([
    ...new Array(columns).fill(0),
    ...alone,
    ...new Array(columns).fill(0),
  ]);
  const exact = alone.map((_, j) => row.reduce((sum, x, i) => sum + x * matrix[i * columns + j], 0));
  const difference = Math.max(...alone.map((y, j) => Math.abs(y - exact[j])));
  // Two roundings of half a step in 127 each, over 48 products of at most 1/4.
  const tolerance = 0.03;
  console.log(`seed ${seed}: max |int8 − float| ${difference.toExponential(2)}, tolerance ${tolerance}`);
  expect(difference).toBeLessThan(tolerance);
});
