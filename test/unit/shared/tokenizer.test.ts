import { readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, it, vi } from "vitest";
import { tokenizerOfJson } from "../../../gpu-backend/models/tokenizer-source.ts";
import { readTensorFile, writeTensorFile } from "../../../shared/artifacts/tensor-file.ts";
import { Merger } from "../../../shared/tokenizer/merger.ts";
import { byteAlphabet, packTokenizer, type VocabularySource } from "../../../shared/tokenizer/pack.ts";
import { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";
import reference from "../../fixtures/small-base-reference.json" with { type: "json" };
import { packGpt2 } from "../../support/gpt2-tokenizer.ts";
import { gpt2Tokenizer } from "../../support/gpt2-vocabulary.ts";
import { smallArtifacts, smallBase } from "../../support/small-base.ts";

const gpt2 = gpt2Tokenizer();
/** Bytes of GPT-2's longest piece. */
const longestPiece = 128;

it.each([
  ["a", 100_000],
  [" ", 100_000],
  ["é", 50_000],
  ["😀", 25_000],
  ["ab", 50_000],
  ["!?", 50_000],
])("a run of %j × %d is encoded in time that grows with its length, not with the square of it", (unit, repeats) => {
  // The whole run takes as long as its eighths together if time is linear, and 8 times as long if it is quadratic.
  const factor = 8;
  const mostRatio = 3;
  const [part, whole] = [unit.repeat(repeats / factor), unit.repeat(repeats)];
  const cpuMs = (text: string, times: number) => {
    const start = process.cpuUsage();
    for (let i = 0; i < times; i++) gpt2.encode(text);
    return process.cpuUsage(start).user / 1000;
  };
  // Measures processor time, and takes the best of up to ten runs of each, because other work on the machine disturbs single runs.
  let times = 1;
  while (cpuMs(whole, times) < 20) times *= 2;
  const best = { whole: Number.POSITIVE_INFINITY, parts: Number.POSITIVE_INFINITY };
  for (let attempt = 0; attempt < 10 && !(best.whole / best.parts < mostRatio); attempt++) {
    best.whole = Math.min(best.whole, cpuMs(whole, times));
    best.parts = Math.min(best.parts, cpuMs(part, factor * times));
  }
  expect(best.whole / best.parts).toBeLessThan(mostRatio);
});

it("a bound is kept for any text", () => {
  const piece = fc.oneof(
    fc.string({ unit: "binary", maxLength: 12 }),
    fc
      .constantFrom("-", "a", " ", "=", "the ", "é", "😀", "\ud83d")
      .chain((unit) => fc.integer({ min: 1, max: 300 }).map((times) => unit.repeat(times))),
  );
  const text = fc.array(piece, { maxLength: 8 }).map((pieces) => pieces.join(""));
  const property = fc.property(text, fc.integer({ min: 0, max: 200 }), (one, most) => {
    const whole = gpt2.encode(one);
    const bounded = gpt2.encode(one, most);
    expect(bounded.length).toBe(Math.min(whole.length, most + 1));
    if (whole.length <= most) expect(bounded).toEqual(whole);
  });
  fc.assert(property, { numRuns: 300 }); // a failure prints its seed
});

it.each(["the quick brown fox ", "a", "-", " ", "é"])("no more of %j, repeated, is read than a bound needs", (unit) => {
  const text = unit.repeat(1_000_000 / unit.length);
  const merge = vi.spyOn(Merger.prototype, "merge");
  gpt2.encode(text, 1024);
  const merged = merge.mock.calls.reduce((sum, [, length]) => sum + length, 0);
  merge.mockRestore();
  expect(merged).toBeLessThanOrEqual(1025 * longestPiece);
});

const json = readFileSync(`${smallBase}/tokenizer.json`, "utf8");
const file = packTokenizer(tokenizerOfJson(json, { vocabularySize: 4096, eosIds: [4095], bosId: 4095 }).vocabulary);

it("with the small base's vocabulary packs to the bytes that are served", () => {
  expect(Buffer.from(writeTensorFile(file))).toEqual(readFileSync(`${smallArtifacts}/tokenizer.safetensors`));
});

it("with the small base's vocabulary gives the ids that the model was trained with", () => {
  const mini = Tokenizer.fromTensors(file);
  expect(mini.vocabularySize).toBe(4096);
  for (const { text, ids } of reference) expect(mini.encode(text)).toEqual(ids);
});

it("with the small base's vocabulary names a tensor that is missing or misshapen", () => {
  const without = new Map(file);
  without.delete("merges");
  expect(() => Tokenizer.fromTensors(without)).toThrow("merges");
  const short = new Map(file).set("byte_ids", { dtype: "I32", shape: [1], bytes: new Uint8Array(4) });
  expect(() => Tokenizer.fromTensors(short)).toThrow("byte_ids");
});

const bytes = byteAlphabet();
/** A vocabulary of the 256 bytes, then `more` in the order given. */
const packOf = (more: string[], merges: string[], endOfTextId: number) =>
  packGpt2({ pieces: [...bytes, ...more], merges, endOfTextId });

it("packing a vocabulary keeps ids of merges that are not in order of rank, and leaves out those that are", () => {
  expect(packOf(["ab", "<end>"], ["a b"], 257).has("merged_ids")).toBe(false);
  const file = packOf(["<end>", "abc", "ab"], ["a b", "ab c"], 256);
  const tokenizer = Tokenizer.fromTensors(file);
  expect(tokenizer.encode("abcab")).toEqual([257, 258]);
  expect(tokenizer.decode([257, 256, 258])).toBe("abc<end>ab");
  expect(tokenizer.vocabularySize).toBe(259);
});

it("packing a vocabulary allows two merges that make the same piece", () => {
  const file = packOf(["ab", "bc", "abc", "<end>"], ["a b", "b c", "ab c", "a bc"], 259);
  const tokenizer = Tokenizer.fromTensors(file);
  expect(tokenizer.vocabularySize).toBe(260);
  expect(tokenizer.encode("abc")).toEqual([258]);
  expect(tokenizer.decode([258])).toBe("abc");
});

it.each([
  ["an entry that is missing", ["ab", "<end>"], ["a b", "ab c"], 257, '"abc"'],
  ["an entry that nothing makes", ["ab", "<pad>", "<end>"], ["a b"], 258, '"<pad>" (257)'],
  ["a line that is no pair", ["ab", "<end>"], ["a b c"], 257, '"a b c"'],
])("packing a vocabulary names %s", (_, more, merges, endOfTextId, named) => {
  expect(() => packOf(more, merges, endOfTextId)).toThrow(named);
});

it("packing a vocabulary names a pair that occurs twice", () => {
  const twice = packOf(["ab", "<end>"], ["a b", "a b"], 257);
  expect(() => Tokenizer.fromTensors(twice)).toThrow("0 and 1");
});

it("packing a vocabulary refuses a vocabulary that is larger than the limit", () => {
  const many = Array.from({ length: 262_144 }, (_, i) => `<${i}>`);
  expect(() => packOf(many, [], 256)).toThrow("262400 ids, the limit vocabulary is 262144");
});

/** A vocabulary of all bytes but "z", then `more`. Ids below `first` are special tokens. */
const packed = (rest: Partial<VocabularySource> & { more?: string[] }, first = 0) => {
  const { more = [], ...source } = rest;
  const spellings = [...bytes.filter((spelling) => spelling !== "z"), ...more];
  return packTokenizer({
    ...{ preTokenizer: "llama3", merges: [], looksUpWhole: false },
    ids: new Map(spellings.map((spelling, i) => [spelling, first + i])),
    specials: Array.from({ length: first }, (_, id) => ({ id, text: `<${id}>`, isShown: id === 1 })),
    roles: { endOfTextId: 0, eosId: 0, bosId: null, addsBos: false },
    ...source,
  });
};

it("packing a vocabulary loses bytes that have no token, and reads on for those that have one", () => {
  const tokenizer = Tokenizer.fromTensors(packed({}, 1));
  expect(tokenizer.encode("zazz")).toEqual(tokenizer.encode("a"));
  expect(tokenizer.encode("z")).toEqual([]);
  for (const most of [0, 1, 2]) {
    expect(tokenizer.encode(`${"z".repeat(5000)}aaa`, most)).toEqual(tokenizer.encode("a".repeat(most + 1)));
  }
});

it("packing a vocabulary numbers ids beyond 16 bits", () => {
  const some = bytes.filter((spelling) => spelling !== "z");
  const pairs = some.flatMap((left) => some.map((right) => `${left} ${right}`));
  const merges = [...pairs, ...some.map((third) => `aa ${third}`), ...some.map((third) => `ab ${third}`)];
  const file = packed({ more: merges.map((merge) => merge.replace(" ", "")), merges }, 1);
  expect([file.get("merges")!.dtype, file.has("merged_ids")]).toEqual(["U32", false]);
  const tokenizer = Tokenizer.fromTensors(readTensorFile(writeTensorFile(file)));
  const [id, ...rest] = tokenizer.encode("abw");
  expect(id).toBeGreaterThan(2 ** 16);
  expect([rest, tokenizer.decode([id])]).toEqual([[], "abw"]);
});

it("packing a vocabulary looks up whole pre-tokens that merging does not make, where the model does", () => {
  const rest = { more: ["ab", "bc", "abc"], merges: ["b c", "a b", "ab c"] };
  expect(Tokenizer.fromTensors(packed(rest, 2)).encode("abc abc").length).toBe(5);
  const tokenizer = Tokenizer.fromTensors(packed({ ...rest, looksUpWhole: true }, 2));
  const whole = 2 + 255 + 2;
  expect(tokenizer.encode("abc")).toEqual([whole]);
  expect(tokenizer.encode("abcd").length).toBe(3);
  expect(tokenizer.decode([whole])).toBe("abc");
});

it("packing a vocabulary shows a generated special token in a text where the model does", () => {
  const tokenizer = Tokenizer.fromTensors(packed({}, 2));
  const shown = [0, 1].map((id) => new TextDecoder().decode(tokenizer.textPieceOf(id)));
  expect(shown).toEqual(["", "<1>"]);
  expect([0, 1, 2].map((id) => tokenizer.isSpecial(id))).toEqual([true, true, false]);
  expect(tokenizer.encode("<0><1>").some((id) => tokenizer.isSpecial(id))).toBe(false);
});
