import { expect, test } from "vitest";
import { GgufHeader, ggufLimits } from "../../../../../gpu-backend/models/gguf/header.ts";
import { bytesOf, type Field, fileOf } from "../../../../support/gguf-bytes.ts";
import { writeGguf } from "../../../../support/gguf-writer.ts";

const magic: Field = { raw: new TextEncoder().encode("GGUF") };
const huge = 2n ** 63n;
/** A header of one metadata entry and nothing else. */
const entry = (...fields: Field[]) => bytesOf(magic, { u32: 3 }, { u64: 0 }, { u64: 1 }, ...fields);
/** A header of tensors, and room for `dataBytes` after it. */
const tensors = (dataBytes: number, ...infos: Field[][]) =>
  bytesOf(magic, { u32: 3 }, { u64: infos.length }, { u64: 0 }, ...infos.flat(), {
    raw: new Uint8Array(dataBytes + 32),
  });
const info = (name: string, sizes: (number | bigint)[], type: number, offset: number | bigint): Field[] => [
  { text: name },
  { u32: sizes.length },
  ...sizes.map((size) => ({ u64: size })),
  { u32: type },
  { u64: offset },
];

const alignment: Field = { text: "general.alignment" };
/** A whole entry of the metadata. */
const one: Field[] = [{ text: "k" }, { u32: 4 }, { u32: 1 }];
const twice = bytesOf(magic, { u32: 3 }, { u64: 0 }, { u64: 2 }, ...one, ...one);

test("reads metadata of every type, and where tensors lie", () => {
  const bytes = writeGguf(
    {
      "a.size": { u32: 7 },
      "a.epsilon": { f32: 0.5 },
      "a.name": { text: "né" },
      "a.tokens": { texts: ["x", "", "Ġt"] },
      "a.types": { i32s: [1, -3] },
    },
    [
      { name: "one", shape: [2, 32], values: new Float32Array(64).fill(1), format: "q8_0" },
      { name: "two", shape: [3], values: Float32Array.of(1, 2, 3), format: "f32" },
    ],
  );
  const header = new GgufHeader(fileOf(bytes).file);
  expect(header.number("a.size")).toBe(7);
  expect(header.number("a.epsilon")).toBe(0.5);
  expect(header.text("a.name")).toBe("né");
  expect(header.texts("a.tokens", 3)).toEqual(["x", "", "Ġt"]);
  expect(header.numbers("a.types", 2)).toEqual([1, -3]);
  expect(header.text("a.missing")).toBeNull();
  const { one, two } = Object.fromEntries(header.tensors);
  expect(one).toMatchObject({ type: "Q8_0", shape: [2, 32], bytes: 68 });
  expect(two).toMatchObject({ type: "F32", shape: [3], bytes: 12 });
  expect([...new Float32Array(bytes.slice(two.at, two.at + 12).buffer)]).toEqual([1, 2, 3]);
});

test("an access names the key, its value and what was expected", () => {
  const bytes = writeGguf({ name: { text: "x" }, tokens: { texts: ["a", "b"] } }, []);
  const header = new GgufHeader(fileOf(bytes).file);
  expect(() => header.number("name")).toThrow('model.gguf: name is "x", not a number');
  expect(() => header.text("tokens")).toThrow("model.gguf: tokens is an array of type 8, not text");
  expect(() => header.numbers("tokens", 2)).toThrow("not an array of numbers");
  expect(() => header.texts("tokens", 1)).toThrow("tokens has 2 elements, the maximum is 1");
});

test.each<[string, Uint8Array, string]>([
  ["nothing", new Uint8Array(0), "has 0 bytes; the shortest GGUF has 24"],
  ["another file", new Uint8Array(64).fill(65), "is no GGUF file"],
  ["version 1", bytesOf(magic, { u32: 1 }, { u64: 0 }, { u64: 0 }), "version 1 is not supported"],
  ["big-endian numbers", bytesOf(magic, { u32: 3 << 24 }, { u64: 0 }, { u64: 0 }), "in big-endian order"],
  ["2^63 tensors", bytesOf(magic, { u32: 3 }, { u64: huge }, { u64: 0 }), "number of tensors is 9223372036854775808"],
  ["2^63 entries", bytesOf(magic, { u32: 3 }, { u64: 0 }, { u64: huge }), "of metadata entries is 922337203685477"],
  ["a key of 2^63 bytes", entry({ u64: huge }), "key of metadata entry 0 is 9223372036854775808, the maximum is 256"],
  ["a text of 2^63 bytes", entry({ text: "k" }, { u32: 8 }, { u64: huge }), 'length of "k" is 9223372036854775808'],
  ["a text past the end", entry({ text: "k" }, { u32: 8 }, { u64: 1000 }), "the file has 45 bytes"],
  ["an unknown type", entry({ text: "k" }, { u32: 13 }), '"k" has the unknown type 13'],
  ["2^63 elements", entry({ text: "k" }, { u32: 9 }, { u32: 4 }, { u64: huge }), 'length of "k" is 922337203685477'],
  ["elements past the end", entry({ text: "k" }, { u32: 9 }, { u32: 12 }, { u64: 1000 }), "its header goes on at 8049"],
  ["arrays of arrays", entry({ text: "k" }, { u32: 9 }, { u32: 9 }, { u64: 1 }), '"k" is an array of arrays'],
  ["elements of no type", entry({ text: "k" }, { u32: 9 }, { u32: 99 }, { u64: 1 }), "of the unknown type 99"],
  ["no end", bytesOf(magic, { u32: 3 }, { u64: 0 }, { u64: 1 }), "its header goes on at 32, the file has 24 bytes"],
  ["a key twice", twice, '"k" occurs twice in the metadata'],
  ["an alignment of 8.5", entry(alignment, { u32: 6 }, { f32: 8.5 }), "general.alignment is 8.5, not a power of two"],
  ["an alignment of NaN", entry(alignment, { u32: 6 }, { f32: Number.NaN }), "general.alignment is NaN, not a power"],
  ["an alignment of 3", entry(alignment, { u32: 4 }, { u32: 3 }), "general.alignment is 3"],
  ["a tensor twice", tensors(64, info("t", [8], 0, 0), info("t", [8], 0, 32)), 'tensor "t" occurs twice'],
  ["tensors that overlap", tensors(64, info("t", [9], 0, 0), info("u", [8], 0, 32)), '"u" begins at 32, within the'],
  ["one tensor within another", tensors(64, info("t", [8], 0, 0), info("u", [8], 0, 0)), "within the tensor before it"],
  ["a crooked offset", tensors(64, info("t", [8], 0, 8)), '"t" begins at 8, which 32 does not divide'],
  ["an offset of 2^63", tensors(64, info("t", [8], 0, huge)), 'the offset of "t" is 9223372036854775808'],
  ["a tensor past the end", tensors(64, info("t", [64], 0, 0)), '"t" ends at 320, the file has'],
  ["2^63 columns", tensors(64, info("t", [huge], 0, 0)), 'a dimension of "t" is 9223372036854775808'],
  ["sizes whose product overflows", tensors(64, info("t", [1024, 1024, 1024, 1024], 0, 0)), "does not fit the file"],
  ["an empty tensor", tensors(64, info("t", [0, 8], 0, 0)), '"t" of shape [0,8] does not fit the file'],
  ["five dimensions", tensors(64, info("t", [1, 1, 1, 1, 1], 0, 0)), '"t" has 5 dimensions'],
  ["no dimension", tensors(64, info("t", [], 0, 0)), '"t" has 0 dimensions'],
  ["a type that is not served", tensors(64, info("t", [256], 16, 0)), '"t" has type IQ2_XXS; supported are F32'],
  ["a type that does not exist", tensors(64, info("t", [8], 77, 0)), '"t" has type number 77'],
  ["half a block", tensors(64, info("t", [48], 8, 0)), '"t" has rows of 48, Q8_0 needs a multiple of 32'],
])("refuses %s", (_, bytes, message) => {
  expect(() => new GgufHeader(fileOf(bytes).file)).toThrow(message);
});

test("a file of any size is refused after a header of the largest size, in small reads", () => {
  const text: Field = { text: "x".repeat(ggufLimits.textBytes) };
  const longTexts = entry({ text: "k" }, { u32: 9 }, { u32: 8 }, { u64: 1000 }, ...new Array<Field>(33).fill(text));
  const { file, read } = fileOf(longTexts, 2 ** 50);
  expect(() => new GgufHeader(file)).toThrow("model.gguf: its header has more than 33554432 bytes, the maximum");
  expect(read.bytes).toBeLessThan(2 * ggufLimits.headerBytes);
  expect(read.largest).toBeLessThanOrEqual(ggufLimits.textBytes);
});
