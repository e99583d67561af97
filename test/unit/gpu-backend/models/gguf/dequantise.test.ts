import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { type BlockType, blockLayouts } from "../../../../../gpu-backend/runtime/block-types.ts";
import { floatsOf, type Weight } from "../../../../../gpu-backend/runtime/model-weights.ts";

interface Truth {
  types: Record<string, { blocks: string; values: string }>;
}
const truth: Truth = JSON.parse(readFileSync(new URL("./dequantised.json", import.meta.url), "utf8"));

test("the truth has every block type", () => {
  expect(Object.keys(truth.types)).toEqual(expect.arrayContaining(Object.keys(blockLayouts)));
});

test.each(Object.keys(truth.types))("%s has the reference's values, bit for bit", (type) => {
  const bytes = new Uint8Array(Buffer.from(truth.types[type].blocks, "base64"));
  const wanted = new Float32Array(new Uint8Array(Buffer.from(truth.types[type].values, "base64")).buffer);
  const values = floatsOf({ dtype: type as Weight["dtype"], shape: [wanted.length], bytes });
  expect([...values]).toEqual([...wanted]);
});

test("blocks may begin anywhere in a buffer", () => {
  const { blocks } = truth.types.Q4_K;
  const bytes = new Uint8Array(Buffer.from(blocks, "base64"));
  const moved = new Uint8Array(bytes.length + 3);
  moved.set(bytes, 3);
  const dtype: BlockType = "Q4_K";
  const shape = [512];
  expect(floatsOf({ dtype, shape, bytes: moved.subarray(3) })).toEqual(floatsOf({ dtype, shape, bytes }));
});
