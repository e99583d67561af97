/** Seeded random text that is hard for tokenizers: runs of one alphabet each, long repeats, contractions, lone surrogates. */
import { otherLetters } from "./oracle-texts.ts";

/** Ranges of code points [first, last]. All were assigned so long ago that every library's Unicode version agrees on them. */
const ranges: Record<string, [number, number][]> = {
  letters: [
    [0x41, 0x5a],
    [0x61, 0x7a],
  ],
  otherLetters: [...otherLetters, [0x1d400, 0x1d454]],
  numbers: [
    [0x30, 0x39],
    [0xb2, 0xb3],
    [0xbc, 0xbe],
    [0x660, 0x669],
    [0x2160, 0x2188],
    [0x1d7ce, 0x1d7ff],
  ],
  marks: [
    [0x21, 0x2f],
    [0x3a, 0x40],
    [0x5b, 0x60],
    [0x7b, 0x7e],
    [0x300, 0x36f],
    [0x2010, 0x2027],
    [0x20a0, 0x20b8],
  ],
  emoji: [
    [0x1f300, 0x1f5ff],
    [0x1f600, 0x1f64f],
    [0x1f1e6, 0x1f1ff],
    [0x200d, 0x200d],
    [0xfe0f, 0xfe0f],
  ],
  whitespace: [
    [0x09, 0x0d],
    [0x20, 0x20],
    [0x85, 0x85],
    [0xa0, 0xa0],
    [0x1680, 0x1680],
    [0x2000, 0x200a],
    [0x2028, 0x2029],
    [0x202f, 0x202f],
    [0x3000, 0x3000],
  ],
  nearWhitespace: [
    [0xfeff, 0xfeff],
    [0x200b, 0x200b],
    [0x180e, 0x180e],
    [0x1c, 0x1f],
    [0x00, 0x08],
  ],
  // With any low surrogate these high ones form a private-use character, never one that a later Unicode version may assign.
  surrogates: [
    [0xdbc0, 0xdbff],
    [0xdc00, 0xdfff],
  ],
  privateUse: [
    [0xe000, 0xe00f],
    [0x10fff0, 0x10ffff],
  ],
};
const alphabets = Object.values(ranges);
const snippets = [
  "'s",
  "'t",
  "'re",
  "'ve",
  "'m",
  "'ll",
  "'d",
  "'S",
  "''",
  " '",
  "<|endoftext|>",
  "\r\n",
  "  ",
  " ",
  "\n\n",
];

/** Text of usually up to about 60 characters, sometimes with one character repeated several hundred times. */
export function fuzzText(random: () => number): string {
  let text = "";
  for (let stretches = 1 + below(random, 8); stretches > 0; stretches--) {
    const kind = random();
    if (kind < 0.3) text += snippets[below(random, snippets.length)];
    else if (kind < 0.4) text += pick(random, alphabets[below(random, alphabets.length)]).repeat(repeats(random));
    else {
      const alphabet = kind < 0.6 ? ranges.letters : alphabets[below(random, alphabets.length)];
      for (let length = 1 + below(random, 8); length > 0; length--) text += pick(random, alphabet);
    }
  }
  return text;
}

function repeats(random: () => number): number {
  return random() < 0.1 ? 200 + below(random, 400) : 1 + below(random, 20);
}

function pick(random: () => number, alphabet: [number, number][]): string {
  const [first, last] = alphabet[below(random, alphabet.length)];
  return String.fromCodePoint(first + below(random, last - first + 1));
}

function below(random: () => number, limit: number): number {
  return Math.floor(random() * limit);
}
