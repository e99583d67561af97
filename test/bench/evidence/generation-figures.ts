/** What a continuation repeats: of itself, and of its prompt. Pure. */

/** A sample ends in a loop when its last tokens repeat a cycle of at most so many tokens … */
export const longestCycle = 16;
/** … so many times at least, … */
const leastRepeats = 3;
/** … over so many tokens at least, so that a short run of one token is none. */
const leastLoopTokens = 12;

/** Share of the bigrams that are the first of their kind; 1 where there is none. */
export function distinctBigrams(ids: readonly number[]): number {
  const bigrams = ids.slice(1).map((id, i) => `${ids[i]} ${id}`);
  return bigrams.length > 0 ? new Set(bigrams).size / bigrams.length : 1;
}

export function endsInLoop(ids: readonly number[]): boolean {
  for (let cycle = 1; cycle <= longestCycle; cycle++) {
    const length = Math.max(leastRepeats * cycle, leastLoopTokens);
    if (length > ids.length) return false;
    const end = ids.slice(-length);
    if (end.every((id, i) => i < cycle || id === end[i - cycle])) return true;
  }
  return false;
}

/** Share of the continuation's words, in any case, that the prompt has too; null where it has no word. */
export function promptWordShare(prompt: string, continuation: string): number | null {
  const known = new Set(wordsOf(prompt));
  const words = wordsOf(continuation);
  return words.length > 0 ? words.filter((word) => known.has(word)).length / words.length : null;
}

function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
}
