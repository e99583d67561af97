/** Each scanner against its model's pattern, which JavaScript's regular expressions run with \s as Unicode's White_Space. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { type PreTokenizerName, preTokenizers } from "../../../shared/tokenizer/pre-tokens.ts";
import { fuzzText } from "../../support/fuzz-text.ts";
import { seededRandom } from "../../support/steps.ts";

const seed = 20_261_129;
const gpt2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
const llama3 = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

function cutBy(pattern: string, text: string): string[] {
  const source = pattern
    .replaceAll(String.raw`[^\s`, String.raw`[^\p{White_Space}`)
    .replaceAll(String.raw`\S`, String.raw`\P{White_Space}`)
    .replaceAll(String.raw`\s`, String.raw`\p{White_Space}`);
  return text.match(new RegExp(source, "gu")) ?? [];
}

const oracles: Record<PreTokenizerName, (text: string) => string[]> = {
  gpt2: (text) => cutBy(gpt2, text),
  smollm: (text) => text.split(/(\p{N})/u).flatMap((part) => cutBy(gpt2, part)),
  llama3: (text) => cutBy(llama3, text),
  qwen2: (text) => cutBy(llama3.replace("{1,3}", ""), text),
};

function preTokensOf(name: PreTokenizerName, text: string): string[] {
  const found: string[] = [];
  for (let start = 0; start < text.length; start += found.at(-1)!.length) {
    found.push(text.slice(start, preTokenizers[name].endOf(text, start)));
  }
  return found;
}

const names = Object.keys(preTokenizers) as PreTokenizerName[];

test.each(names)("%s cuts random texts as its pattern does", (name) => {
  const random = seededRandom(seed);
  for (let n = 0; n < 3000; n++) {
    const text = fuzzText(random);
    expect(preTokensOf(name, text)).toEqual(oracles[name](text));
  }
  const unit = fc.constantFrom(..."aZsſ7٣½!'\"-_é😀𝟘  \n\r\t\u00a0\u0085", "'s", "'LL", "\ud83d");
  const text = fc.array(unit, { maxLength: 14 }).map((units) => units.join(""));
  const property = fc.property(text, (one) => {
    expect(preTokensOf(name, one)).toEqual(oracles[name](one));
  });
  fc.assert(property, { numRuns: 3000 }); // a failure prints its seed
});

test.each<[PreTokenizerName, string, string[]]>([
  ["gpt2", "I'll pay  1234 €\n\n", ["I", "'ll", " pay", " ", " 1234", " €", "\n\n"]],
  ["smollm", "I'll pay  1234 €\n\n", ["I", "'ll", " pay", "  ", "1", "2", "3", "4", " €", "\n\n"]],
  ["llama3", "I'LL pay  1234 €\n\n x", ["I", "'LL", " pay", " ", " ", "123", "4", " €\n\n", " x"]],
  ["qwen2", "(don't) 42\r\n", ["(don", "'t", ")", " ", "4", "2", "\r\n"]],
])("%s cuts %j", (name, text, wanted) => {
  expect(preTokensOf(name, text)).toEqual(wanted);
});
