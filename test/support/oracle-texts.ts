/** Seeded texts for comparing two tokenizers. Pure. */
import { uniformAt } from "../../shared/math/sampling.ts";

const seed = 20_261_126;

const words =
  "the of and to in is that was for it with as his on be at by had are this from or have not an they which one you were her all she there would their we him been has when who will no more if out so said what up its about into than them can only other time new some could these two may then do first any my now such like our over man me even most made after also did many before must through back years where much your way well down should because each just those people Mr how too little state good very make world still own see men work long get here between both life being under never day same another know while last might us great old year off come since against go came right used take three".split(
    " ",
  );
export type CodePointRange = readonly [first: number, last: number];

export function codePoints(ranges: string): CodePointRange[] {
  return ranges.split(" ").map((range) => {
    const [first, last = first] = range.split("-").map((digits) => Number.parseInt(digits, 16));
    return [first, last];
  });
}

/** Letters beyond ASCII that every used Unicode version contains. */
export const otherLetters = codePoints("c0-ff 391-3a1 430-44f 5d0-5ea 627-63a 905-939 3041-3096 4e00-9fa5 ac00-d7a3");
const alphabets = [...codePoints("41-5a"), ...otherLetters, ...codePoints("1f600-1f64f 300-36f 2010-2027 660-669")];
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
 * `count` texts of 1 to 12 pieces. They lack U+0085 and U+FEFF, which JavaScript's `\s` classifies differently. They lack special tokens,
 * which Transformers.js does not encode as text.
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
