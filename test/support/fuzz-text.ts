/** Seeded random text that is hard for tokenizers: runs of one alphabet, long repeats, contractions, lone surrogates. */
import { type CodePointRange, codePoints, otherLetters } from "./oracle-texts.ts";

/** Alphabets that every library's Unicode version knows. */
const ranges: Record<string, CodePointRange[]> = {
  letters: codePoints("41-5a 61-7a"),
  otherLetters: [...otherLetters, ...codePoints("1d400-1d454")],
  numbers: codePoints("30-39 b2-b3 bc-be 660-669 2160-2188 1d7ce-1d7ff"),
  marks: codePoints("21-2f 3a-40 5b-60 7b-7e 300-36f 2010-2027 20a0-20b8"),
  emoji: codePoints("1f300-1f5ff 1f600-1f64f 1f1e6-1f1ff 200d fe0f"),
  whitespace: codePoints("9-d 20 85 a0 1680 2000-200a 2028-2029 202f 3000"),
  nearWhitespace: codePoints("feff 200b 180e 1c-1f 0-8"),
  // These high surrogates form private-use characters, which no later Unicode version assigns.
  surrogates: codePoints("dbc0-dbff dc00-dfff"),
  privateUse: codePoints("e000-e00f 10fff0-10ffff"),
};
const alphabets = Object.values(ranges);
const contractions = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S"];
const snippets = [...contractions, "''", " '", "<|endoftext|>", "\r\n", "  ", " ", "\n\n"];

/** Usually up to about 60 characters, sometimes with one character repeated several hundred times. */
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

function pick(random: () => number, alphabet: readonly CodePointRange[]): string {
  const [first, last] = alphabet[below(random, alphabet.length)];
  return String.fromCodePoint(first + below(random, last - first + 1));
}

function below(random: () => number, limit: number): number {
  return Math.floor(random() * limit);
}
