import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import type { BlockType } from "../../../../gpu-backend/runtime/block-types.ts";
import { GraphBuilder } from "../../../../gpu-backend/runtime/graph.ts";
import { floatsOf, type Weight } from "../../../../gpu-backend/runtime/model-weights.ts";
import {
  addBlockRows,
  addPackedProducts,
  type PackedMatrix,
  packRows,
  roundToBlocks,
  scaleRows,
} from "../../../../gpu-backend/runtime/packed-blocks.ts";
import { openSession, tensor } from "../../../../gpu-backend/runtime/session.ts";
import { maxDifference, seededRandom } from "../../../support/steps.ts";

const path = new URL("../models/gguf/dequantised.json", import.meta.url);
const truth: { types: Record<string, { blocks: string }> } = JSON.parse(readFileSync(path, "utf8"));
const types: BlockType[] = ["Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K"];
const columns = 256;
const seed = 23;

/** The reference's blocks as a matrix [1 or 2, 256]. */
function matrixOf(dtype: BlockType): Weight {
  const bytes = new Uint8Array(Buffer.from(truth.types[dtype].blocks, "base64"));
  const values = floatsOf({ dtype, shape: [], bytes }).length;
  return { dtype, shape: [values / columns, columns], bytes };
}

/** x·Wᵀ in double precision, and the `magnitude` that errors are divided by: the largest sum of the magnitudes of a product's terms. */
function exactProduct(x: Float32Array, matrix: Float32Array, rows: number, width = columns) {
  const count = x.length / width;
  const result = new Float64Array(count * rows);
  let magnitude = 0;
  for (let m = 0; m < count; m++) {
    for (let row = 0; row < rows; row++) {
      let terms = 0;
      for (let i = 0; i < width; i++) {
        const term = x[m * width + i] * matrix[row * width + i];
        result[m * rows + row] += term;
        terms += Math.abs(term);
      }
      magnitude = Math.max(magnitude, terms);
    }
  }
  return { result, magnitude };
}

async function productOf(matrix: PackedMatrix) {
  const g = new GraphBuilder("packed");
  const x = g.input("x", "float32", ["M", matrix.columns]);
  g.output("y", addPackedProducts(g)(x, matrix), "float32", ["M", matrix.rows]);
  const session = await openSession(g.bytes(), { threads: 2 });
  return {
    run: async (x: Float32Array) => {
      const feeds = { x: tensor(x, [x.length / matrix.columns, matrix.columns]) };
      return (await session.run(feeds)).y.data as Float32Array;
    },
    release: () => session.release(),
  };
}

test.each(types)("a product with %s is that of its values, and each row's bits are its own", async (type) => {
  const weight = matrixOf(type);
  const matrix = packRows([weight, weight])!;
  const random = seededRandom(seed);
  const x = Float32Array.from({ length: 8 * columns }, () => (random() - 0.5) * 10 ** (2 * random()));
  const floats = floatsOf(weight);
  const wanted = exactProduct(x, Float32Array.from([...floats, ...floats]), matrix.rows);
  const product = await productOf(matrix);
  const all = await product.run(x);
  const error = maxDifference(all, wanted.result) / wanted.magnitude;
  console.log(`${type}: error ${error.toExponential(1)}`);
  // Activations are multiplied in two parts; with one part the error would be about 1e-3.
  expect(error).toBeLessThan(1e-5);
  for (const count of [1, 2, 3, 5]) {
    const some = await product.run(x.slice(0, count * columns));
    expect([...some], `${count} rows`).toEqual([...all.subarray(0, some.length)]);
  }
  await product.release();
});

async function rowsByIndex(matrix: PackedMatrix, ids: Int32Array) {
  const g = new GraphBuilder("rows");
  g.output("y", addBlockRows(g, g.input("ids", "int32", ["S", "T"]), matrix), "float32", ["S", "T", matrix.columns]);
  const session = await openSession(g.bytes(), { threads: 1 });
  const { y } = await session.run({ ids: tensor(ids, [ids.length, 1]) });
  await session.release();
  return y.data as Float32Array;
}

test.each(types)("rows of %s by their index are its values", async (type) => {
  const weight = matrixOf(type);
  const matrix = packRows([weight])!;
  const last = matrix.rows - 1;
  const rows = await rowsByIndex(matrix, Int32Array.of(last, 0));
  const floats = floatsOf(weight);
  const wanted = [...floats.subarray(last * columns), ...floats.subarray(0, columns)];
  // The graph adds the range's middle to the block's offset, and float32 rounds the sum.
  const error = maxDifference(rows, wanted) / Math.max(...wanted.map(Math.abs));
  expect(error).toBeLessThan(5e-7);
});

test("only matrices that are packed alike become one", () => {
  expect(packRows([matrixOf("Q4_1"), matrixOf("Q4_K")])).not.toBeNull();
  expect(packRows([matrixOf("Q4_1"), matrixOf("Q4_0")])).toBeNull();
  expect(packRows([matrixOf("Q6_K"), matrixOf("Q8_0")])).toBeNull();
  expect(packRows([{ dtype: "F32", shape: [1, 1], bytes: new Uint8Array(4) }])).toBeNull();
});

test("a factor of the first rows goes into their scales and offsets", async () => {
  const weight = matrixOf("Q4_K");
  const plain = packRows([weight])!;
  const scaled = packRows([weight])!;
  scaleRows(scaled, 1, 0.125);
  const x = Float32Array.from({ length: columns }, seededRandom(seed));
  const [a, b] = [await productOf(plain), await productOf(scaled)];
  const [before, after] = [await a.run(x), await b.run(x)];
  await Promise.all([a.release(), b.release()]);
  expect([...after]).toEqual([before[0] / 8, before[1]]);
});

test("floats are rounded to blocks, the last of which may be padded", async () => {
  const width = 40;
  const random = seededRandom(seed);
  const floats = Float32Array.from({ length: 3 * width }, () => random() - 0.5);
  const rows = await rowsByIndex(roundToBlocks(floats, 3, width), Int32Array.of(0, 1, 2));
  expect(maxDifference(rows, floats)).toBeLessThan(0.5 / 128);
});
