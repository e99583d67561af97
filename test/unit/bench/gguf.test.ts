/** The GGUF writer against the format's own description: where things lie, and what a block decodes to. */
import { expect, test } from "vitest";
import { encode, writeGguf } from "../../bench/llama/gguf.ts";
import { seededRandom } from "../../support/steps.ts";

const seed = 11;

test("header, metadata and tensors lie where a reader looks for them", () => {
  const values = Float32Array.of(1, 2, 3, 4, 5, 6);
  const file = writeGguf({ k: { u32: 7 } }, [
    { name: "a", shape: [2, 3], values, format: "f32" },
    { name: "b", shape: [1], values: Float32Array.of(9), format: "f32" },
  ]);
  const view = new DataView(file.buffer, file.byteOffset);
  expect(new TextDecoder().decode(file.subarray(0, 4))).toBe("GGUF");
  expect([view.getUint32(4, true), view.getBigUint64(8, true), view.getBigUint64(16, true)]).toEqual([3, 2n, 1n]);
  // Key "k": length, text, type 4 (u32), 7.
  expect([view.getBigUint64(24, true), file[32], view.getUint32(33, true), view.getUint32(37, true)]).toEqual([
    1n,
    "k".charCodeAt(0),
    4,
    7,
  ]);
  // Tensor "a": length, name, two dimensions with the innermost first, type 0, offset 0.
  expect([view.getBigUint64(41, true), view.getUint32(50, true)]).toEqual([1n, 2]);
  expect([view.getBigUint64(54, true), view.getBigUint64(62, true), view.getBigUint64(74, true)]).toEqual([3n, 2n, 0n]);
  // Tensor "b" comes after a's 24 bytes, on a boundary of 32.
  expect(view.getBigUint64(82 + 8 + 1 + 4 + 8 + 4, true)).toBe(32n);
  const data = file.byteLength - 64;
  expect(data % 32).toBe(0);
  expect([...values.keys()].map((i) => view.getFloat32(data + 4 * i, true))).toEqual([...values]);
  expect(view.getFloat32(data + 32, true)).toBe(9);
});

test.each([
  ["q8_0", 1 / 127],
  ["q4_0", 1 / 8],
] as const)("%s decodes to within its step", (format, step) => {
  const random = seededRandom(seed);
  const values = Float32Array.from({ length: 96 }, () => 2 * random() - 1);
  const decoded = decode(encode(values, format), format);
  for (let block = 0; block < 3; block++) {
    const extreme = Math.max(...values.subarray(32 * block, 32 * block + 32).map(Math.abs));
    for (let i = 32 * block; i < 32 * block + 32; i++) {
      // The range of four bits ends one step short on one side; the scale itself is rounded to float16.
      expect(Math.abs(decoded[i] - values[i])).toBeLessThan(extreme * step * (format === "q4_0" ? 1.01 : 0.6));
    }
  }
  expect(decode(encode(new Float32Array(32), format), format)).toEqual(Array(32).fill(0));
});

/** As ggml's dequantize_row_q8_0 and dequantize_row_q4_0 read it. */
function decode(bytes: Uint8Array, format: "q8_0" | "q4_0"): number[] {
  const view = new DataView(bytes.buffer);
  const blockBytes = format === "q8_0" ? 34 : 18;
  const values: number[] = [];
  for (let at = 0; at < bytes.byteLength; at += blockBytes) {
    const scale = view.getFloat16(at, true);
    for (let i = 0; i < 32; i++) {
      if (format === "q8_0") values.push(scale * view.getInt8(at + 2 + i));
      else {
        const byte = bytes[at + 2 + (i % 16)];
        values.push(scale * ((i < 16 ? byte & 15 : byte >> 4) - 8) + 0);
      }
    }
  }
  return values.map((value) => value + 0);
}
