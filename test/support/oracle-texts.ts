/** Seeded texts for comparing two tokenizers; the seed makes a failure reproducible. Pure. */
import { uniformAt } from "../../shared/math/sampling.ts";

const seed = 20_261_126;

const words =
  "the of and to in is that was for it with as his on be at by had are this from or have not an they which one you were her all she there would their we him been has when who will no more if out so said what up its about into than them can only other time new some could these two may then do first any my now such like our over man me even most made after also did many before must through back years where much your way well down should because each just those people Mr how too little state good very make world still own see men work long get here between both life being under never day same another know while last might us great old year off come since against go came right used take three".split(
    " ",
  );
/** First and last code point of ranges of letters beyond ASCII that every Unicode version in use contains. */
export const otherLetters: readonly [number, number][] = [
  [0xc0, 0xff],
  [0x391, 0x3a1],
  [0x430, 0x44f],
  [0x5d0, 0x5ea],
  [0x627, 0x63a],
  [0x905, 0x939],
  [0x3041, 0x3096],
  [0x4e00, 0x9fa5],
  [0xac00, 0xd7a3],
];
const alphabets: readonly [number, number][] = [
  [0x41, 0x5a],
  ...otherLetters,
  [0x1f600, 0x1f64f],
  [0x300, 0x36f],
  [0x2010, 0x2027],
  [0x660, 0x669],
];
const spaces = [" ", "  ", "    ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2003"];
const code = [
  "for (let i = 0; i < n; i++) {\n  total += values[i];\n}",
  "def f(x):\n    return x ** 2\n",
  "SELECT * FROM t WHERE id = 'a''b';",
  '{"key": [1, 2.5e-3, null]}',
  "<p class=\"x\">it's &amp; they'll</p>",
  "https://example.com/a?b=c&d=%20#e",
  "x -> y => z !== w && !(a || b) ?? c;",
  "#include <stdio.h>\n\nint main(void) { return 0; }",
];
const kinds = ["words", "words", "unicode", "spaces", "code", "digits", "contractions"] as const;

/**
 * `count` texts of 1 to 12 pieces each. They contain no U+0085 and U+FEFF, which JavaScript's `\s` and Unicode's White_Space classify
 * differently, and no special tokens, which are text here and tokens in Transformers.js.
 */
export function oracleTexts(count: number): string[] {
  let position = 0;
  const below = (limit: number) => Math.floor(uniformAt(seed, position++) * limit);
  const pick = <T>(from: readonly T[]) => from[below(from.length)];
  const several = (max: number, piece: () => string, between = "") =>
    Array.from({ length: 1 + below(max) }, piece).join(between);
  const letters = (): string => {
    const [first, last] = pick(alphabets);
    return several(10, () => String.fromCodePoint(first + below(last - first + 1)));
  };
  const pieces: Record<(typeof kinds)[number], () => string> = {
    words: () => several(8, () => pick(words), " "),
    unicode: letters,
    spaces: () => pick(spaces).repeat(1 + below(12)),
    code: () => pick(code),
    digits: () => several(12, () => String(below(10)), pick(["", "", ".", ",", "-"])),
    contractions: () =>
      pick(words) + pick(["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "’s", "...", "!?", " --"]),
  };
  return Array.from({ length: count }, () => several(12, () => pieces[pick(kinds)](), pick(["", " ", " "])));
}
