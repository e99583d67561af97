/** tokenizer.safetensors as somebody may write it who can write the bucket. */
import { describe, expect, test } from "vitest";
import { type TensorFile, tensorFrom } from "../../../shared/artifacts/tensor-file.ts";
import { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";

const byteIds = Uint16Array.from({ length: 256 }, (_, byte) => byte);

/** Bytes, merges in order of rank, the end of text behind them. */
function fileOf(pairs: [number, number][], change: TensorFile = new Map()): TensorFile {
  return new Map([
    ["byte_ids", tensorFrom(byteIds, [256])],
    ["merges", tensorFrom(Uint16Array.from(pairs.flat()), [pairs.length, 2])],
    ["end_of_text_id", tensorFrom(Uint16Array.of(256 + pairs.length), [1])],
    ["end_of_text", tensorFrom(Uint8Array.of(33), [1])],
    ...change,
  ]);
}
const two: [number, number][] = [
  [97, 98],
  [256, 99],
];
const ids = (...values: number[]) => tensorFrom(Uint16Array.from(values), [values.length]);

test("merges of bytes and of earlier merges are accepted, also two that make the same piece", () => {
  expect(Tokenizer.fromTensors(fileOf(two)).decode([257, 258])).toBe("abc!");
  const same: [number, number][] = [
    [97, 98],
    [98, 99],
    [256, 99],
    [97, 257],
  ];
  const file = fileOf(
    same,
    new Map([
      ["merged_ids", ids(256, 257, 258, 258)],
      ["end_of_text_id", ids(259)],
    ]),
  );
  expect(Tokenizer.fromTensors(file).decode([258])).toBe("abc");
});

describe("a tokenizer is refused by its file's name with", () => {
  test.each<[string, TensorFile, RegExp]>([
    ["a piece made of itself", fileOf([[256, 97]]), /merge 0 joins id 256/],
    [
      "pieces made of each other",
      fileOf([
        [257, 97],
        [256, 97],
      ]),
      /merge 0 joins id 257/,
    ],
    [
      "a piece of a later merge",
      fileOf([
        [257, 97],
        [98, 99],
      ]),
      /merge 0 joins id 257/,
    ],
    ["a merge with the end of text", fileOf([[257, 97]]), /merge 0 joins id 257/],
    [
      "pieces that double",
      fileOf([[97, 97], ...doubling(40)]),
      /merge 9 makes 1024 bytes, the limit pieceBytes is 512/,
    ],
    ["a byte's id twice", fileOf(two, new Map([["byte_ids", tensorFrom(new Uint16Array(256), [256])]])), /id 0 is/],
    ["an end of text that is a byte", fileOf(two, new Map([["end_of_text_id", ids(97)]])), /id 97 is that of a byte/],
    ["an end of text that is a merge", fileOf(two, new Map([["end_of_text_id", ids(257)]])), /merge 1 makes id 257/],
    ["an id that nothing explains", fileOf(two, new Map([["end_of_text_id", ids(60_000)]])), /id 258 of 60001/],
    [
      "no spelling of the end of text",
      fileOf(two, new Map([["end_of_text", tensorFrom(new Uint8Array(0), [0])]])),
      /end_of_text has 0/,
    ],
    [
      "a long spelling of it",
      fileOf(two, new Map([["end_of_text", tensorFrom(new Uint8Array(513), [513])]])),
      /end_of_text has 513/,
    ],
    ["half a pair", fileOf(two, new Map([["merges", ids(97, 98, 99)]])), /merges is U16 \[3\]/],
    [
      "ids of another merge count",
      fileOf(two, new Map([["merged_ids", ids(256)]])),
      /merged_ids is U16 \[1\], expected U16 \[2\]/,
    ],
    [
      "merges of another type",
      fileOf(two, new Map([["merges", tensorFrom(new Float32Array(4), [2, 2])]])),
      /merges is F32/,
    ],
    ["two ends of text", fileOf(two, new Map([["end_of_text_id", ids(258, 258)]])), /end_of_text_id is U16 \[2\]/],
    [
      "more merges than ranks",
      fileOf(Array.from({ length: 65_537 }, () => [0, 0])),
      /65537 merges, the limit merges is 65536/,
    ],
  ])("%s", (_, file, message) => {
    expect(() => Tokenizer.fromTensors(file)).toThrow(message);
    expect(() => Tokenizer.fromTensors(file)).toThrow(/^tokenizer/);
  });

  test("merges that fall on the same slots of the table, so that each look-up would visit all of them", () => {
    const bits = 11; // of a table for 1,000 merges
    const slotOf = (pair: number) => Math.imul(pair ^ (pair >>> 15), 0x9e3779b1) >>> (32 - bits);
    const pairs: [number, number][] = [];
    for (let left = 0; left < 256; left++) {
      for (let right = 0; right < 256; right++) if (slotOf((left << 16) | right) < 32) pairs.push([left, right]);
    }
    expect(pairs.length).toBeGreaterThan(1000);
    expect(() => Tokenizer.fromTensors(fileOf(pairs.slice(0, 1000)))).toThrow(/the limit mergeRun is 256/);
  });
});

/** Each the one before it, twice. */
function doubling(count: number): [number, number][] {
  return Array.from({ length: count }, (_, i) => [256 + i, 256 + i]);
}
