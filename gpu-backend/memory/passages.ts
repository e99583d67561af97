/** Finds passages to show as the source of a token. Pure. */
import type { Memory } from "./memory.ts";

/** Maximum words of a passage before the token. */
const passageWords = 12;
/** Maximum tokens of a passage, for text without spaces. */
const passageTokens = 48;

export type Passage = ReturnType<typeof passageOf>;

/** The passage ends with the token after the key at `position`. Returns a byte range [start, end). */
export function passageOf(
  { documents, nextIds, starts, ends }: Memory,
  position: number,
  textPieceOf: (id: number) => Uint8Array,
) {
  const c = firstThat(documents.length, (i) => documents[i].end > position);
  const first = c > 0 ? documents[c - 1].end : 0;
  let at = position;
  for (let words = 0; at > first && position - at < passageTokens; at--) {
    if (beginsWord(textPieceOf(nextIds[at])) && ++words > passageWords) break;
  }
  // The document's first token has no key. An excerpt's first token does not begin its document.
  const start = at === first ? starts[first] - textPieceOf(documents[c].firstId).length : starts[at];
  return { document: documents[c].name, start, end: ends[position] };
}

/** Binary search. If `holds` is true at an index, it must be true at all later indexes. */
function firstThat(count: number, holds: (i: number) => boolean): number {
  let [low, high] = [0, count];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

function beginsWord([byte]: Uint8Array): boolean {
  return byte === 0x20 || (byte >= 0x09 && byte <= 0x0d);
}
