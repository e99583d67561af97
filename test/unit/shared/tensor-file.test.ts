import { expect, it } from "vitest";
import { setLimits } from "../../../shared/artifacts/limits.ts";
import {
  readTensorFile,
  type Tensor,
  type TensorFile,
  tensorFrom,
  toFloat32,
  writeTensorFile,
} from "../../../shared/artifacts/tensor-file.ts";

const tensors = (): TensorFile =>
  new Map([
    ["bytes", tensorFrom(Uint8Array.of(1, 2, 3), [3])],
    ["signed", tensorFrom(Int8Array.of(-1, 127), [1, 2])],
    ["ids", tensorFrom(Uint16Array.of(65535, 0, 1), [3, 1])],
    ["floats", tensorFrom(Float32Array.of(1.5, -0, 3e-45, Number.POSITIVE_INFINITY), [2, 2])],
    ["ints", tensorFrom(Int32Array.of(-(2 ** 31)), [1])],
    ["wide", tensorFrom(Uint32Array.of(2 ** 32 - 1), [])],
    ["empty", tensorFrom(new Float32Array(0), [0, 4])],
    ["half", { dtype: "F16", shape: [1], bytes: Uint8Array.of(0x00, 0x3c) }],
  ]);

/** Stands for 100,000 nested lists. */
class Deep {}

/** A file with this header, and `dataBytes` bytes after it. */
function fileOf(header: unknown, dataBytes: number): Uint8Array {
  // JSON.stringify recurses, so a text stands in for a list that is too deep for it.
  const deepest = (_: string, value: unknown) => (value instanceof Deep ? "DEEP" : value);
  const text = JSON.stringify(header, deepest).replace('"DEEP"', `${"[".repeat(100_000)}${"]".repeat(100_000)}`);
  const json = new TextEncoder().encode(text);
  const file = new Uint8Array(8 + json.length + dataBytes);
  new DataView(file.buffer).setUint32(0, json.length, true);
  file.set(json, 8);
  return file;
}

const entry = (dtype: unknown, shape: unknown, data_offsets?: [number, number]) => ({ dtype, shape, data_offsets });

it("a tensor file is read back as it was written, from any address", () => {
  const written = writeTensorFile(tensors());
  const shifted = new Uint8Array(written.length + 3).subarray(3);
  shifted.set(written);
  for (const file of [written, shifted]) {
    const read = readTensorFile(file);
    expect([...read.keys()].sort()).toEqual([...tensors().keys()].sort());
    for (const [name, tensor] of tensors()) expect(read.get(name), name).toEqual(tensor);
  }
});

it("a tensor file refuses a header that is too long, before it reads it", () => {
  const file = new Uint8Array(2 ** 23);
  const most = setLimits.tensorHeaderBytes;
  new DataView(file.buffer).setUint32(0, most + 1, true);
  expect(() => readTensorFile(file)).toThrow(`header of ${most + 1} bytes, the maximum is ${most}`);
});

it("a tensor file is refused when it is cut off anywhere, or has bytes too many", () => {
  const file = writeTensorFile(tensors());
  for (let length = 0; length < file.length; length++) {
    expect(() => readTensorFile(file.subarray(0, length)), `${length} bytes`).toThrow();
  }
  const longer = new Uint8Array(file.length + 1);
  longer.set(file);
  expect(() => readTensorFile(longer)).toThrow(`${longer.length} bytes`);
});

it.each<[string, object | null, string]>([
  ["a shape that its bytes do not fill", entry("F32", [2], [0, 4]), "spans 4 bytes, its shape needs 8"],
  ["an end after the file's", entry("U8", [9], [0, 9]), "x ends at"],
  ["a dtype it does not know", entry("F8_E4M3", [4], [0, 4]), "F8_E4M3"],
  ["a dtype that only objects know", entry("toString", [], [0, 4]), "toString"],
  ["a start before the data", entry("U8", [8], [-4, 4]), "data_offsets.0 is -4"],
  ["a part of an element", entry("U8", [0.5, 8], [0, 4]), "shape.0 is 0.5"],
  ["no offsets", entry("U8", [4]), "data_offsets is missing"],
  ["nothing", null, "x is not valid: it is null"],
])("a tensor file is refused when its header names %s", (_, one, named) => {
  expect(() => readTensorFile(fileOf({ x: one }, 4))).toThrow(named);
});

it("a tensor file is refused when its header is longer than it is, or no JSON", () => {
  const file = writeTensorFile(tensors());
  const overlong = file.slice();
  new DataView(overlong.buffer).setUint32(0, file.length, true);
  expect(() => readTensorFile(overlong)).toThrow("does not fit");
  const high = file.slice();
  high[4] = 1;
  expect(() => readTensorFile(high)).toThrow("does not fit");
  const broken = file.slice();
  broken[8] = 0x5b;
  expect(() => readTensorFile(broken)).toThrow();
});

const four = entry("U8", [4], [0, 4]);
const inRow = (count: number) =>
  Object.fromEntries(Array.from({ length: count }, (_, i) => [i, entry("U8", [0], [0, 0])]));
it.each<[string, unknown, number, RegExp]>([
  ["two tensors share bytes", { x: four, y: four }, 4, /y begins at 0, not at 4/],
  ["bytes belong to no tensor", { x: entry("U8", [1], [0, 1]), y: entry("U8", [1], [3, 4]) }, 4, /y begins at 3, not/],
  ["its header is a list", [], 0, /not a JSON object/],
  ["its header is null", null, 0, /not a JSON object/],
  ["a shape overflows", { x: entry("F64", [2 ** 52, 2 ** 52, 2 ** 52], [0, 4]) }, 4, /spans 4 bytes/],
  ["it has too many dimensions", { x: entry("U8", Array(9).fill(1), [0, 1]) }, 1, /shape is a list of 9/],
  ["a name is long", { ["x".repeat(257)]: entry("U8", [1], [0, 1]) }, 1, /257.*256/],
  ["it has too many tensors", inRow(8193), 0, /8193 tensors, the maximum is 8192/],
  ["its header is long", { x: " ".repeat(1_048_576) }, 0, /header of 10485\d\d bytes, the maximum is 1048576/],
  ["a size is a deep list", { x: entry("U8", new Deep(), [0, 0]) }, 0, /shape\.0 is a list of 1/],
  ["a dtype is a deep list", { x: entry(new Deep(), [], [0, 0]) }, 0, /dtype is a list of 1/],
])("a tensor file is refused in a few words when %s", (_, header, dataBytes, message) => {
  const file = fileOf(header, dataBytes);
  expect(() => readTensorFile(file)).toThrow(message);
  expect(() => readTensorFile(file)).toThrow(/^.{1,500}$/s);
});

it("toFloat32 widens bfloat16, the upper half of a float32", () => {
  const floats = Float32Array.of(1, -2.5, 2 ** -130, 2 ** 100, Number.NEGATIVE_INFINITY, Number.NaN, -0);
  const words = new Uint16Array(floats.buffer);
  const halves = Uint16Array.from(floats, (_, i) => words[2 * i + 1]);
  const tensor: Tensor = { dtype: "BF16", shape: [floats.length], bytes: new Uint8Array(halves.buffer) };
  expect(Array.from(toFloat32(tensor))).toEqual(Array.from(floats));
});

it("toFloat32 widens every bit pattern of float16 as the platform does", () => {
  const halves = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const widened = toFloat32({ dtype: "F16", shape: [65536], bytes: new Uint8Array(halves.buffer) });
  const view = new DataView(halves.buffer);
  for (let i = 0; i < 65536; i++) {
    if (!Object.is(widened[i], view.getFloat16(2 * i, true))) expect.fail(`half ${i}: ${widened[i]}`);
  }
});
