import { expect, test } from "vitest";
import { packOwnAdapter, unpackOwnAdapter } from "../../../../../gpu-backend/adapters/own/artifact.ts";
import type { Delta } from "../../../../../gpu-backend/runtime/fit-session.ts";
import { type Tensor, tensorFrom, writeTensorFile } from "../../../../../shared/artifacts/tensor-file.ts";

const manifestHash = "ab".repeat(32);
const D = 3;
const shape = { manifestHash, hiddenSize: D };
const floats = (length: number) => Float32Array.from({ length }, (_, i) => Math.sin(i + length));
const delta: Delta = { a: floats(8 * D), b: floats(8 * D), c: floats(D) };

test("an adapter comes back as it was, and the base as the base", () => {
  expect(unpackOwnAdapter(packOwnAdapter(delta, manifestHash), shape)).toEqual(delta);
  expect(unpackOwnAdapter(packOwnAdapter(null, manifestHash), shape)).toBeNull();
});

const tensor = (values: Float32Array, ...sizes: number[]) => tensorFrom(values, sizes);
const parts: [string, Tensor][] = [
  ["manifest", tensorFrom(Buffer.from(manifestHash, "hex"), [32])],
  ["a", tensor(delta.a, 8, D)],
  ["b", tensor(delta.b, 8, D)],
  ["c", tensor(delta.c, D)],
];
const infinite = tensor(Float32Array.of(0, Number.POSITIVE_INFINITY, 0), D);
test.each<[string, [string, Tensor][], RegExp]>([
  ["another hidden size", [...parts, ["c", tensor(floats(4), 4)]], /c is F32 \[4\], expected F32 \[3\]/],
  ["another rank", [...parts, ["a", tensor(floats(4 * D), 4, D)]], /a is F32 \[4,3\], expected F32 \[8,3\]/],
  ["another type", [...parts, ["b", tensorFrom(new Int32Array(8 * D), [8, D])]], /b is I32/],
  ["a short manifest hash", [...parts, ["manifest", tensorFrom(new Uint8Array(31), [31])]], /manifest is U8 \[31\]/],
  ["an infinite value", [...parts, ["c", infinite]], /c: value 1 is Infinity/],
  ["a missing part", parts.slice(0, 2), /no tensor b/],
])("%s: refused by name", (_, file, message) => {
  expect(() => unpackOwnAdapter(writeTensorFile(new Map(file)), shape)).toThrow(message);
});

test.each([
  ["cut off", (bytes: Uint8Array) => bytes.subarray(0, -1)],
  ["empty", () => new Uint8Array(0)],
  ["noise", (bytes: Uint8Array) => bytes.map((byte, i) => byte ^ (i * 37))],
])("a file that is %s is refused by name", (_, harm) => {
  expect(() => unpackOwnAdapter(harm(packOwnAdapter(delta, manifestHash)), shape)).toThrow(/^own adapter: /);
});

test("an adapter of another manifest is outdated, and both are named", () => {
  const other = "cd".repeat(32);
  expect(() => unpackOwnAdapter(packOwnAdapter(delta, other), shape)).toThrow(
    expect.objectContaining({ kind: "adapter_outdated", message: expect.stringMatching(`${other}.*${manifestHash}`) }),
  );
});
