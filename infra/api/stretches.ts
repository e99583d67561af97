/** Cuts a text into stretches to score, and combines their scores. Pure. */

export interface Score {
  nats: number;
  perplexity: number;
  tokens: number;
}

/** A guess at how many characters fit the context. A stretch that is too long is cut in two later. */
const stretchCharacters = 1500;

/** Splits a text into words with the white space after them, of at most 200 characters. */
const wordsIn = (text: string) => text.match(/\S{1,100}\s{0,100}|\s{1,100}/gu) ?? [];

export function stretchesOf(text: string): string[] {
  const stretches = [""];
  for (const word of wordsIn(text)) {
    if (stretches.at(-1)!.length >= stretchCharacters) stretches.push("");
    stretches[stretches.length - 1] += word;
  }
  return stretches;
}

/** Cuts between two words, or within the only word. Throws an Error for a stretch of one character. */
export function cutInTwo(stretch: string): [string, string] {
  const words = wordsIn(stretch);
  const parts = words.length > 1 ? words : [...stretch];
  if (parts.length < 2) throw new Error("the model's context holds not even one character");
  const middle = Math.ceil(parts.length / 2);
  return [parts.slice(0, middle).join(""), parts.slice(middle).join("")];
}

/** Scores are weighted by their numbers of tokens. */
export function mean(scores: readonly Score[]): Score {
  const tokens = scores.reduce((sum, score) => sum + score.tokens, 0);
  const nats = scores.reduce((sum, score) => sum + score.nats * score.tokens, 0) / tokens;
  return { nats, perplexity: Math.exp(nats), tokens };
}

export function scoreTable({ base, ...others }: { base: Score } & Record<string, Score>): string {
  const width = Math.max(15, ...Object.keys(others).map((name) => name.length)) + 1;
  const line = (name: string, { nats, perplexity }: Score) =>
    `${name.padEnd(width)}${perplexity.toFixed(1).padStart(10)}${nats.toFixed(3).padStart(14)}  ${beside(nats, base.nats)}`;
  return `${[
    `${"".padEnd(width)}${"perplexity".padStart(10)}${"nats a token".padStart(14)}`,
    line("base", base).trimEnd(),
    ...Object.entries(others).map(([name, score]) => line(name, score)),
    `${base.tokens} tokens scored`,
  ].join("\n")}\n`;
}

export function besideBase(gainNats: number): string {
  const percent = 100 * (Math.exp(-gainNats) - 1);
  const rounded = Math.abs(percent).toFixed(0);
  if (rounded === "0") return "perplexity the same as the base's";
  return `perplexity ${rounded}% ${percent < 0 ? "lower" : "higher"} than the base's`;
}

function beside(nats: number, base: number): string {
  return nats === base ? "" : besideBase(base - nats);
}
