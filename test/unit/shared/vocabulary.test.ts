/** tokenizer.safetensors, written by an attacker who can write the bucket. */
import { expect, test } from "vitest";
import { type Tensor, type TensorFile, tensorFrom } from "../../../shared/artifacts/tensor-file.ts";
import { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";

const byteIds = Int32Array.from({ length: 256 }, (_, byte) => byte);

const text = (value: string) => {
  const bytes = new TextEncoder().encode(value);
  return tensorFrom(bytes, [bytes.length]);
};
const ids = (...values: number[]) => tensorFrom(Uint16Array.from(values), [values.length]);
const flag = (value: number) => tensorFrom(Uint8Array.of(value), [1]);

/** A file of the 256 bytes, the merges in order of rank, and the end of text as the last id. */
function fileOf(pairs: [number, number][], change: TensorFile = new Map()): TensorFile {
  return new Map([
    ["byte_ids", tensorFrom(byteIds, [256])],
    ["merges", tensorFrom(Uint16Array.from(pairs.flat()), [pairs.length, 2])],
    ["pre_tokenizer", text("gpt2")],
    ...specialOf(256 + pairs.length),
    ["adds_bos", flag(0)],
    ...change,
  ]);
}
/** Tensors of special tokens, of which the end of text is the only one. */
function specialOf(id: number, spelled = "!"): TensorFile {
  return new Map([
    ["special_ids", ids(id)],
    ["special_texts", text(spelled)],
    ["special_shown", flag(0)],
    ["end_of_text_id", ids(id)],
    ["eos_id", ids(id)],
  ]);
}
const pairsOf = (...numbers: number[]) =>
  Array.from({ length: numbers.length / 2 }, (_, i): [number, number] => [numbers[2 * i], numbers[2 * i + 1]]);
const two = pairsOf(97, 98, 256, 99);

test("merges of bytes and of earlier merges are accepted, also two that make the same piece", () => {
  expect(Tokenizer.fromTensors(fileOf(two)).decode([257, 258])).toBe("abc!");
  const same = pairsOf(97, 98, 98, 99, 256, 99, 97, 257);
  const file = fileOf(same, new Map([["merged_ids", ids(256, 257, 258, 258)], ...specialOf(259)]));
  expect(Tokenizer.fromTensors(file).decode([258])).toBe("abc");
});

/** The file of two merges, with these tensors changed. */
const having = (changes: Record<string, Tensor>) => fileOf(two, new Map(Object.entries(changes)));
const twice = { special_ids: ids(258, 258), special_texts: text("a\0b"), special_shown: text("ab") };
const manyRanks = Array.from({ length: 524_289 }, (): [number, number] => [0, 0]);
const manyPieces = ids(...new Array<number>(260).fill(256));
test.each<[string, TensorFile, RegExp]>([
  ["a piece made of itself", fileOf([[256, 97]]), /merge 0 joins id 256/],
  ["pieces made of each other", fileOf(pairsOf(257, 97, 256, 97)), /merge 0 joins id 257/],
  ["a piece of a later merge", fileOf(pairsOf(257, 97, 98, 99)), /merge 0 makes id 256, which is something else/],
  ["a merge with the end of text", fileOf([[257, 97]]), /merge 0 joins id 257/],
  ["pieces that double", fileOf([[97, 97], ...doubling(40)]), /merge 9 makes 1024 bytes, the limit pieceBytes is 512/],
  ["a byte's id twice", having({ byte_ids: tensorFrom(new Int32Array(256), [256]) }), /id 0 is/],
  ["a byte's id that is none", having({ byte_ids: tensorFrom(byteIds.with(7, -2), [256]) }), /holds -2/],
  ["a special token that is a byte", fileOf(two, specialOf(97)), /id 97 is that of a byte/],
  ["a special token that is a merge", fileOf(two, specialOf(257)), /merge 1 makes id 257/],
  ["an id that nothing explains", fileOf(two, specialOf(60_000)), /id 258 of 60001/],
  ["a special token twice", having(twice), /id 258 is there twice/],
  ["an end of text that is a byte", having({ end_of_text_id: ids(97) }), /end_of_text_id: id 97 is no special token/],
  ["no spelling of a special token", fileOf(two, specialOf(258, "")), /special_texts has a text of 0/],
  ["a long spelling of it", fileOf(two, specialOf(258, "x".repeat(513))), /special_texts has a text of 513/],
  ["two spellings for one", fileOf(two, specialOf(258, "a\0b")), /2 texts for 1 ids/],
  ["a BOS to add that is not there", having({ adds_bos: flag(1) }), /no bos_id/],
  ["an unknown pre-tokeniser", having({ pre_tokenizer: text("constructor") }), /"constructor"; there are gpt2/],
  ["a special token among whole pieces", having({ whole_ids: ids(258) }), /whole_ids: id 258/],
  ["a whole piece twice", having({ whole_ids: ids(257, 256, 257) }), /whole_ids: id 257 is there twice/],
  ["more whole pieces than ids", having({ whole_ids: manyPieces }), /whole_ids has 260 ids, the vocabulary has 259/],
  ["half a pair", having({ merges: ids(97, 98, 99) }), /merges is U16 \[3\]/],
  ["ids of another merge count", having({ merged_ids: ids(256) }), /merged_ids is U16 \[1\], expected U16 \[2\]/],
  ["merges of another type", having({ merges: tensorFrom(new Float32Array(4), [2, 2]) }), /merges is F32/],
  ["two ends of text", having({ end_of_text_id: ids(258, 258) }), /end_of_text_id is U16 \[2\]/],
  ["more merges than ranks", fileOf(manyRanks), /524289 merges, the limit merges is 524288/],
])("a tokenizer is refused by its file's name with %s", (_, file, message) => {
  expect(() => Tokenizer.fromTensors(file)).toThrow(message);
  expect(() => Tokenizer.fromTensors(file)).toThrow(/^tokenizer/);
});

test("a tokenizer is refused by its file's name with merges that fall on the same slots of the table, so that each look-up would visit all of them", () => {
  const bits = 11; // of a table for 1,000 merges
  const slotOf = (left: number, right: number) => {
    const pair = Math.imul(left, 0x85ebca6b) ^ right;
    return Math.imul(pair ^ (pair >>> 15), 0x9e3779b1) >>> (32 - bits);
  };
  const pairs: [number, number][] = [];
  for (let left = 0; left < 256; left++) {
    for (let right = 0; right < 256; right++) if (slotOf(left, right) < 32) pairs.push([left, right]);
  }
  expect(pairs.length).toBeGreaterThan(1000);
  expect(() => Tokenizer.fromTensors(fileOf(pairs.slice(0, 1000)))).toThrow(/the limit mergeRun is 256/);
});

/** Merges that each join two copies of the piece that the merge before made. */
function doubling(count: number): [number, number][] {
  return Array.from({ length: count }, (_, i) => [256 + i, 256 + i]);
}
