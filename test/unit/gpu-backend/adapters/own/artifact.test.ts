/** The bytes of tenants' adapters. */
import { expect, test } from "vitest";
import {
  type OwnAdapterParts,
  packOwnAdapter,
  unpackOwnAdapter,
} from "../../../../../gpu-backend/adapters/own/artifact.ts";
import {
  type Tensor,
  type TensorFile,
  tensorFrom,
  writeTensorFile,
} from "../../../../../shared/artifacts/tensor-file.ts";

const manifestHash = "ab".repeat(32);
const shape = { manifestHash, gates: 2, vocabularySize: 4 };
const parts: OwnAdapterParts = {
  gates: Float32Array.of(0.5, -1),
  bias: { ids: Int32Array.of(0, 3), values: Float32Array.of(0.25, -0.5) },
};

test("parts come back as they were, the missing ones as missing", () => {
  expect(unpackOwnAdapter(packOwnAdapter(parts, manifestHash), shape)).toEqual(parts);
  const base = { gates: null, bias: null };
  expect(unpackOwnAdapter(packOwnAdapter(base, manifestHash), shape)).toEqual(base);
});

test.each<[string, OwnAdapterParts, string]>([
  ["gates of another bank", { ...parts, gates: new Float32Array(3) }, "gates is F32 [3], expected F32 [2]"],
  [
    "a token out of the vocabulary",
    { ...parts, bias: { ids: Int32Array.of(1, 4), values: new Float32Array(2) } },
    "below 4",
  ],
  ["a token twice", { ...parts, bias: { ids: Int32Array.of(1, 1), values: new Float32Array(2) } }, "rising"],
  ["a value that is none", { ...parts, gates: Float32Array.of(0, Number.NaN) }, "value 1 is NaN"],
])("%s is refused", (_, bad, message) => {
  expect(() => unpackOwnAdapter(packOwnAdapter(bad, manifestHash), shape)).toThrow(message);
});

const floats = (...values: number[]) => tensorFrom(Float32Array.from(values), [values.length]);
test.each<[string, [string, Tensor][], RegExp]>([
  [
    "token ids that are no whole numbers of 32 bits",
    [["bias_ids", tensorFrom(new Uint8Array(3), [3])]],
    /bias_ids is U8/,
  ],
  ["token ids of two dimensions", [["bias_ids", tensorFrom(new Int32Array(2), [1, 2])]], /bias_ids is I32 \[1,2\]/],
  ["ids without values", [["bias_ids", tensorFrom(Int32Array.of(1), [1])]], /no tensor bias_values/],
  [
    "values of another number",
    [
      ["bias_ids", tensorFrom(Int32Array.of(1), [1])],
      ["bias_values", floats(1, 2)],
    ],
    /bias_values is F32 \[2\]/,
  ],
  ["a manifest hash of another length", [["manifest", tensorFrom(new Uint8Array(31), [31])]], /manifest is U8 \[31\]/],
  ["an infinite gate", [["gates", floats(Number.POSITIVE_INFINITY, 0)]], /gates: value 0 is Infinity/],
])("%s: refused by name", (_, changed, message) => {
  const file: TensorFile = new Map([["manifest", tensorFrom(Buffer.from(manifestHash, "hex"), [32])], ...changed]);
  expect(() => unpackOwnAdapter(writeTensorFile(file), shape)).toThrow(message);
});

test.each([
  ["cut off", (bytes: Uint8Array) => bytes.subarray(0, -1)],
  ["empty", () => new Uint8Array(0)],
  ["noise", (bytes: Uint8Array) => bytes.map((byte, i) => byte ^ (i * 37))],
])("a file that is %s is refused by name", (_, harm) => {
  expect(() => unpackOwnAdapter(harm(packOwnAdapter(parts, manifestHash)), shape)).toThrow(/^own adapter: /);
});

test("an adapter of another manifest is outdated, and both are named", () => {
  const other = "cd".repeat(32);
  expect(() => unpackOwnAdapter(packOwnAdapter(parts, other), shape)).toThrow(
    expect.objectContaining({ kind: "adapter_outdated", message: expect.stringMatching(`${other}.*${manifestHash}`) }),
  );
});
