/**
 * GPT-2's pre-tokeniser: cuts text into the stretches that merges never cross. The same language as the pattern
 *   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * with \s as Unicode's White_Space, but scanned by hand: no backtracking stack that a long run could overflow.
 * JavaScript's own \s is another set: it lacks U+0085 and has U+FEFF.
 */

const whitespace = 1;
const letter = 2;
const number = 3;
const other = 4;

/** Memo of `classify` for the basic plane, filled as characters are met; 0 is "not met yet". */
const classes = new Uint8Array(0x10000);

const space = 0x20;
const apostrophe = 0x27;

/** Where the pre-token that starts at code unit `start` of `text` ends. Needs `start < text.length`. */
export function preTokenEnd(text: string, start: number): number {
  const first = text.charCodeAt(start);
  if (first === apostrophe) {
    const end = contractionEnd(text, start);
    if (end > start) return end;
  }
  if (first === space && start + 1 < text.length) {
    const next = classAt(text, start + 1);
    if (next !== whitespace) return runEnd(text, start + 1, next);
  }
  const kind = classAt(text, start);
  const end = runEnd(text, start, kind);
  // The last of several whitespace characters before a word is left to that word.
  return kind === whitespace && end < text.length && end - start > 1 ? end - 1 : end;
}

function contractionEnd(text: string, start: number): number {
  switch (text[start + 1]) {
    case "s":
    case "t":
    case "m":
    case "d":
      return start + 2;
    case "r":
    case "v":
      return text[start + 2] === "e" ? start + 3 : start;
    case "l":
      return text[start + 2] === "l" ? start + 3 : start;
    default:
      return start;
  }
}

function runEnd(text: string, start: number, kind: number): number {
  let i = start;
  while (i < text.length && classAt(text, i) === kind) i += isPairAt(text, i) ? 2 : 1;
  return i;
}

function classAt(text: string, i: number): number {
  if (isPairAt(text, i)) return classify(text.slice(i, i + 2));
  const unit = text.charCodeAt(i);
  if (classes[unit] === 0) classes[unit] = classify(text[i]);
  return classes[unit];
}

/** A lone surrogate is `other`, as is the U+FFFD that it is encoded as. */
function classify(character: string): number {
  if (/^\p{White_Space}/u.test(character)) return whitespace;
  if (/^\p{L}/u.test(character)) return letter;
  return /^\p{N}/u.test(character) ? number : other;
}

/** Whether code unit `i` begins a surrogate pair. */
export function isPairAt(text: string, i: number): boolean {
  return (text.charCodeAt(i) & 0xfc00) === 0xd800 && (text.charCodeAt(i + 1) & 0xfc00) === 0xdc00;
}
