/** The tokenizer against tiktoken, on seeded random text, with GPT-2's vocabulary and the small base's. */
import { readFileSync } from "node:fs";
import { get_encoding, type Tiktoken } from "tiktoken";
import { expect, it } from "vitest";
import { readTensorFile } from "../../shared/artifacts/tensor-file.ts";
import { preTokenizers } from "../../shared/tokenizer/pre-tokens.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { fuzzText } from "../support/fuzz-text.ts";
import { cl100kTokenizer, gpt2Tokenizer, tiktokenOver } from "../support/gpt2-vocabulary.ts";
import { smallArtifacts } from "../support/small-base.ts";
import { seededRandom } from "../support/steps.ts";

const seed = 20_250_117;

it("tokenises 20,000 texts as tiktoken does with GPT-2's vocabulary", () => {
  compare(gpt2Tokenizer(), get_encoding("gpt2"), 20_000);
});

it("tokenises 5,000 texts as tiktoken does with the small base's vocabulary", () => {
  const tokenizer = Tokenizer.fromTensors(readTensorFile(readFileSync(`${smallArtifacts}/tokenizer.safetensors`)));
  const oracle = tiktokenOver(Array.from({ length: 4095 }, (_, id) => tokenizer.pieceOf(id)));
  compare(tokenizer, oracle, 5_000);
});

it.each([
  ["llama3", "{1,3}"],
  ["qwen2", ""],
] as const)("tokenises 5,000 texts as tiktoken does with the pattern of %s and 100,000 ids", (name, digits) => {
  const pattern = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
  const tokenizer = cl100kTokenizer(name);
  const pieces = Array.from({ length: 100_256 }, (_, id) => tokenizer.pieceOf(id));
  const oracle = tiktokenOver(pieces, pattern.replace("DIGITS", digits));
  compare(tokenizer, oracle, 5_000, name === "qwen2" ? (text) => text.normalize("NFC") : undefined);
});

/** Letters that Unicode 17 added to the basic plane; tiktoken's tables are older. */
const newLetters = new Set([0x88f, 0xc5c, 0xcdc, 0xa7ce, 0xa7cf, 0xa7d2, 0xa7d4, 0xa7f1]);

it("classifies every character of the basic plane as tiktoken does", () => {
  // With the pieces below, the text of a prefix and a character has fewer tokens than bytes exactly if the text is one pre-token.
  const bytes = Array.from({ length: 256 }, (_, byte) => byte);
  const pairs = ["a", "1", "!"].flatMap((prefix) => bytes.map((byte) => [prefix.charCodeAt(0), byte]));
  const oracle = tiktokenOver([...bytes.map((byte) => [byte]), ...pairs].map((piece) => Uint8Array.from(piece)));
  const mismatches: string[] = [];
  for (let point = 0; point < 0x10000; point++) {
    if (isSurrogate(point) || newLetters.has(point)) continue;
    const character = String.fromCodePoint(point);
    const length = Buffer.byteLength(character);
    const theirs = classOf((prefix) => oracle.encode_ordinary(prefix + character).length === length);
    const ours = classOf((prefix) => preTokenizers.gpt2.endOf(prefix + character, 0) === 2);
    if (theirs !== ours) mismatches.push(`U+${point.toString(16)}: ${ours}, tiktoken ${theirs}`);
  }
  oracle.free();
  expect(mismatches).toEqual([]);
});

/** Compares both tokenizers on seeded texts, and frees the oracle. */
function compare(tokenizer: Tokenizer, oracle: Tiktoken, texts: number, normal = (text: string) => text): void {
  const random = seededRandom(seed);
  let mismatches = 0;
  for (let n = 0; n < texts; n++) {
    const text = fuzzText(random);
    const ids = tokenizer.encode(text);
    const wanted = Array.from(oracle.encode_ordinary(normal(text)));
    const same = ids.length === wanted.length && ids.every((id, i) => id === wanted[i]);
    if (!same && mismatches++ === 0) expect.soft(ids, `text ${n}: ${JSON.stringify(text)}`).toEqual(wanted);
    const back = tokenizer.decode(ids);
    const whole = normal(text.toWellFormed());
    if (back !== whole) expect(back, `text ${n} decoded`).toBe(whole);
  }
  oracle.free();
  expect(mismatches).toBe(0);
}

function classOf(joins: (prefix: string) => boolean): string {
  return joins("a") ? "letter" : joins("1") ? "number" : joins("!") ? "other" : "whitespace";
}

function isSurrogate(point: number): boolean {
  return (point & 0xf800) === 0xd800;
}
