/** Cuts a text into stretches to score, and combines their scores. Pure. */

export interface Score {
  /** Mean loss of a token. */
  nats: number;
  perplexity: number;
  /** Scored tokens. */
  tokens: number;
}

/** A first guess at the context's size; a stretch that is too long is cut in two. */
const stretchCharacters = 1500;

/** Cut where words end. */
export function stretchesOf(text: string): string[] {
  const stretches: string[] = [];
  let start = 0;
  while (start < text.length) {
    const end = wordEnd(text, start + stretchCharacters);
    stretches.push(text.slice(start, end));
    start = end;
  }
  return stretches;
}

/** Throws an Error for a text of one character: nothing is left to cut. */
export function cutInTwo(stretch: string): [string, string] {
  const middle = Math.ceil(stretch.length / 2);
  const end = wordEnd(stretch, middle);
  const cut = end < stretch.length ? end : middle - (isInCharacter(stretch, middle) ? 1 : 0);
  if (cut === 0 || cut === stretch.length) throw new Error("the model's context holds not even one character");
  return [stretch.slice(0, cut), stretch.slice(cut)];
}

/** The end of the word at `position`; a word as long as a hundred characters is cut. */
function wordEnd(text: string, position: number): number {
  if (position >= text.length) return text.length;
  const rest = text.slice(position, position + 100).search(/\s/);
  const end = position + Math.max(0, rest);
  return isInCharacter(text, end) ? end + 1 : end;
}

/** Whether the position is between the halves of a surrogate pair. */
function isInCharacter(text: string, position: number): boolean {
  return /^[\ud800-\udbff][\udc00-\udfff]/.test(text.slice(position - 1, position + 1));
}

/** Weighed by tokens. */
export function mean(scores: readonly Score[]): Score {
  const tokens = scores.reduce((sum, score) => sum + score.tokens, 0);
  const nats = scores.reduce((sum, score) => sum + score.nats * score.tokens, 0) / tokens;
  return { nats, perplexity: Math.exp(nats), tokens };
}

/** A line for each model, with what it gains beside the base. */
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

/** What a gain of so many nats a token is in perplexity, in words. */
export function besideBase(gainNats: number): string {
  const percent = 100 * (Math.exp(-gainNats) - 1);
  const rounded = Math.abs(percent).toFixed(0);
  if (rounded === "0") return "perplexity the same as the base's";
  return `perplexity ${rounded}% ${percent < 0 ? "lower" : "higher"} than the base's`;
}

function beside(nats: number, base: number): string {
  return nats === base ? "" : besideBase(base - nats);
}
