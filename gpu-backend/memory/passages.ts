/** The passage around a token of a memory: some words before it, and the token. Pure. */
import type { Memory } from "./memory.ts";

/** Words before the token, at most. */
const passageWords = 12;
/** Tokens of a passage, at most: text without spaces has no words. */
const passageTokens = 48;

export interface Passage {
  /** Name of the document, and bytes [start, end) of its text. */
  document: string;
  start: number;
  end: number;
}

/** The passage that ends with the next token of a key. `textPieceOf` gives the bytes of a token. */
export function passageOf(
  { documents, nextIds, starts, ends }: Memory,
  position: number,
  textPieceOf: (id: number) => Uint8Array,
): Passage {
  const c = firstThat(documents.length, (i) => documents[i].end > position);
  const first = c > 0 ? documents[c - 1].end : 0;
  let at = position;
  for (let words = 0; at > first && position - at < passageTokens; at--) {
    if (beginsWord(textPieceOf(nextIds[at])) && ++words > passageWords) break;
  }
  return { document: documents[c].name, start: at === first ? 0 : starts[at], end: ends[position] };
}

/** The first index below `count` for which a condition holds that holds for all after it, too. */
function firstThat(count: number, holds: (i: number) => boolean): number {
  let [low, high] = [0, count];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Whether a token begins with white space, as the first token of a word does. */
function beginsWord([byte]: Uint8Array): boolean {
  return byte === 0x20 || (byte >= 0x09 && byte <= 0x0d);
}
