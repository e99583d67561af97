import { expect, test } from "vitest";
import {
  type GgufMetadata,
  tokenizerOfGguf,
  tokenizerOfJson,
} from "../../../../gpu-backend/models/tokenizer-source.ts";
import { byteAlphabet, packTokenizer } from "../../../../shared/tokenizer/pack.ts";
import { Tokenizer } from "../../../../shared/tokenizer/tokenizer.ts";

const bytes = byteAlphabet();
const specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const pieces = [...specials, ...bytes, "he", "ll", "hell", "hello"];
const merges = ["h e", "l l", "he ll", "hell o"];

type Values = Record<string, unknown>;
const ggml: Values = {
  ...{ model: "gpt2", pre: "smollm", tokens: pieces, merges },
  token_type: pieces.map((_, id) => (id < 3 ? 3 : 1)),
  ...{ eos_token_id: 2, bos_token_id: 1 },
};

function metadataOf(changes: Values = {}): GgufMetadata {
  const values = { ...ggml, ...changes };
  const get = (key: string) => (values[key.replace("tokenizer.ggml.", "")] ?? null) as never;
  return { number: get, text: get, scalar: get, texts: get, numbers: get };
}

test("GGUF metadata give pieces, special tokens, roles and stop ids, the turn's end first", () => {
  const { vocabulary, stopIds } = tokenizerOfGguf(metadataOf());
  expect(stopIds).toEqual([2, 0]);
  expect(vocabulary.roles).toEqual({ endOfTextId: 0, eosId: 2, bosId: 1, addsBos: false });
  const tokenizer = Tokenizer.fromTensors(packTokenizer(vocabulary));
  expect(tokenizer.encode("hello<|im_end|>").slice(0, 1)).toEqual([pieces.length - 1]);
  expect(tokenizer.encode("<|im_end|>").some((id) => tokenizer.isSpecial(id))).toBe(false);
  expect(tokenizer.textStart).toEqual([]);
});

test("GGUF metadata say whether prompts begin with BOS; Llama 3's do unless they say otherwise", () => {
  const startOf = (changes: Values) => tokenizerOfGguf(metadataOf(changes)).vocabulary.roles.addsBos;
  expect([startOf({ add_bos_token: true }), startOf({ pre: "llama-bpe" })]).toEqual([true, true]);
  expect(startOf({ pre: "llama-bpe", add_bos_token: false })).toBe(false);
});

test("GGUF metadata mark tokens that users define as shown", () => {
  const token_type = pieces.map((_, id) => (id < 3 ? 4 - (id % 2) : 1));
  const { vocabulary } = tokenizerOfGguf(metadataOf({ token_type }));
  expect(vocabulary.specials.map(({ isShown }) => isShown)).toEqual([true, false, true]);
});

test.each<[string, Values, RegExp]>([
  ["another model", { model: "llama" }, /tokenizer\.ggml\.model is "llama"/],
  ["another pre-tokeniser", { pre: "deepseek-llm" }, /pre is "deepseek-llm"; supported are gpt-2, smollm/],
  ["a pre-tokeniser that is a property of every object", { pre: "toString" }, /pre is "toString"/],
  ["no tokens", { tokens: null }, /tokenizer\.ggml\.tokens is missing/],
  ["no end", { eos_token_id: null }, /eos_token_id is missing/],
  ["types of other tokens", { token_type: [1] }, /1 types for 263 tokens/],
])("GGUF metadata with %s are refused", (_, changes, message) => {
  expect(() => tokenizerOfGguf(metadataOf(changes))).toThrow(message);
});

const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true };
const toBytes = { ...byteLevel, use_regex: false };
const llama3 = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const split = (Regex: string) => ({ type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false });
const sequence = (...pretokenizers: object[]) => ({ type: "Sequence", pretokenizers });
const smollm = sequence({ type: "Digits", individual_digits: true }, { ...byteLevel, use_regex: true });

function jsonOf(changes: Values = {}, model: Values = {}): string {
  return JSON.stringify({
    added_tokens: specials.map((content, id) => ({ id, content, special: true })),
    pre_tokenizer: smollm,
    model: {
      ...{ type: "BPE", unk_token: null },
      ...{ vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])), merges },
      ...model,
    },
    ...changes,
  });
}
const about = { vocabularySize: pieces.length, eosIds: [2], bosId: 1 };

test("tokenizer.json gives what GGUF metadata of the same model give", () => {
  const ofJson = tokenizerOfJson(jsonOf(), about);
  const ofGguf = tokenizerOfGguf(metadataOf());
  expect(ofJson.stopIds).toEqual(ofGguf.stopIds);
  expect(packTokenizer(ofJson.vocabulary)).toEqual(packTokenizer(ofGguf.vocabulary));
  const inPairs = jsonOf({}, { merges: merges.map((merge) => merge.split(" ")) });
  expect(tokenizerOfJson(inPairs, about)).toEqual(ofJson);
  const asGpt2s = jsonOf({}, { type: undefined, unk_token: "", continuing_subword_prefix: "", end_of_word_suffix: "" });
  expect(tokenizerOfJson(asGpt2s, about)).toEqual(ofJson);
});

test.each([
  ["gpt2", { pre_tokenizer: byteLevel }],
  ["llama3", { pre_tokenizer: sequence(split(llama3), toBytes) }],
  ["qwen2", { normalizer: { type: "NFC" }, pre_tokenizer: sequence(split(llama3.replace("{1,3}", "")), toBytes) }],
])("tokenizer.json names the pre-tokeniser %s by its parts", (name, changes) => {
  expect(tokenizerOfJson(jsonOf(changes), about).vocabulary.preTokenizer).toBe(name);
});

test("tokenizer.json adds BOS where its template processor does", () => {
  const single = [{ SpecialToken: { id: "<|im_start|>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }];
  const processors = [byteLevel, { type: "TemplateProcessing", single }];
  const { vocabulary } = tokenizerOfJson(jsonOf({ post_processor: { type: "Sequence", processors } }), about);
  expect(vocabulary.roles).toMatchObject({ bosId: 1, addsBos: true });
  expect(tokenizerOfJson(jsonOf({ post_processor: byteLevel }), about).vocabulary.roles.addsBos).toBe(false);
});

test("tokenizer.json has special tokens for ids of the model that it does not use", () => {
  const { vocabulary } = tokenizerOfJson(jsonOf(), { ...about, vocabularySize: pieces.length + 2 });
  const tokenizer = Tokenizer.fromTensors(packTokenizer(vocabulary));
  expect(tokenizer.vocabularySize).toBe(pieces.length + 2);
  expect(tokenizer.textPieceOf(pieces.length + 1)).toHaveLength(0);
});

test.each<[string, string, RegExp]>([
  ["of another kind", jsonOf({}, { type: "Unigram" }), /model\.type/],
  ["that falls back to bytes", jsonOf({}, { byte_fallback: true }), /byte_fallback/],
  ["with a normaliser of another kind", jsonOf({ normalizer: { type: "Lowercase" } }), /normalizer/],
  ["with another pattern", jsonOf({ pre_tokenizer: split(String.raw`\s+`) }), /not supported: Split\(\\s\+\)/],
  ["with a normaliser that its pattern does not go with", jsonOf({ normalizer: { type: "NFC" } }), /NFC Digits/],
])("tokenizer.json %s is refused", (_, json, message) => {
  expect(() => tokenizerOfJson(json, about)).toThrow(message);
});
