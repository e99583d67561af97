/**
 * Pre-tokenisers cut text into pre-tokens, which merges never cross. Each is a scanner that gives the result of its model's regular
 * expression, because a long run could overflow the stack of a backtracking expression. Here \s means Unicode's White_Space, which includes
 * U+0085 and not U+FEFF.
 */

const whitespace = 1;
const letter = 2;
const number = 3;
const other = 4;

const classes = new Uint8Array(0x10000);

const space = 0x20;
const apostrophe = 0x27;

export interface PreTokenizer {
  /** End of the pre-token that begins at code unit `start`, which must be below `text.length`. */
  endOf(text: string, start: number): number;
  /** Whether texts are first converted to Unicode's normal form C. */
  isNormalised: boolean;
}

export const preTokenizers = {
  gpt2: { endOf: gpt2End, isNormalised: false },
  smollm: { endOf: smollmEnd, isNormalised: false },
  llama3: { endOf: (text, start) => llama3End(text, start, 3), isNormalised: false },
  qwen2: { endOf: (text, start) => llama3End(text, start, 1), isNormalised: true },
} satisfies Record<string, PreTokenizer>;
export type PreTokenizerName = keyof typeof preTokenizers;

/** GPT-2: 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
function gpt2End(text: string, start: number): number {
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
  return kind === whitespace ? lastLeft(text, start, end) : end;
}

/** Each number character is a pre-token. GPT-2's pattern cuts the text between. */
function smollmEnd(text: string, start: number): number {
  const kind = classAt(text, start);
  if (kind === number) return start + (isPairAt(text, start) ? 2 : 1);
  if (kind !== whitespace) return gpt2End(text, start);
  const end = runEnd(text, start, whitespace);
  // For GPT-2's pattern the text ends before the number, so all whitespace before a number is one pre-token.
  return end < text.length && classAt(text, end) === number ? end : gpt2End(text, start);
}

/** Llama 3: (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
function llama3End(text: string, start: number, digits: number): number {
  const first = text.charCodeAt(start);
  if (first === apostrophe) {
    const three = text.slice(start, start + 3);
    const end = contractionEnd(three.replace("ſ", "s").toLowerCase(), 0);
    if (end > 0) return start + end;
  }
  const kind = classAt(text, start);
  if (kind === letter) return runEnd(text, start, letter);
  if (kind === number) return runEnd(text, start, number, digits);
  const next = start + (isPairAt(text, start) ? 2 : 1);
  const nextKind = next < text.length ? classAt(text, next) : whitespace;
  if (nextKind === letter && !isLineEnd(first)) return runEnd(text, next, letter);
  if (kind === other || (first === space && nextKind === other)) {
    let end = runEnd(text, next, other);
    while (end < text.length && isLineEnd(text.charCodeAt(end))) end++;
    return end;
  }
  const end = runEnd(text, start, whitespace);
  for (let i = end; i > start; i--) if (isLineEnd(text.charCodeAt(i - 1))) return i;
  return lastLeft(text, start, end);
}

/** Leaves the last whitespace character of a run to the next pre-token. */
function lastLeft(text: string, start: number, end: number): number {
  return end < text.length && end - start > 1 ? end - 1 : end;
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

function runEnd(text: string, start: number, kind: number, most = Number.POSITIVE_INFINITY): number {
  let i = start;
  for (let count = 0; count < most && i < text.length && classAt(text, i) === kind; count++) {
    i += isPairAt(text, i) ? 2 : 1;
  }
  return i;
}

function isLineEnd(codeUnit: number): boolean {
  return codeUnit === 0x0a || codeUnit === 0x0d;
}

function classAt(text: string, i: number): number {
  if (isPairAt(text, i)) return classify(text.slice(i, i + 2));
  const unit = text.charCodeAt(i);
  if (classes[unit] === 0) classes[unit] = classify(text[i]);
  return classes[unit];
}

/** A lone surrogate is `other`, like U+FFFD, which replaces it. */
function classify(character: string): number {
  if (/^\p{White_Space}/u.test(character)) return whitespace;
  if (/^\p{L}/u.test(character)) return letter;
  return /^\p{N}/u.test(character) ? number : other;
}

export function isPairAt(text: string, i: number): boolean {
  return (text.charCodeAt(i) & 0xfc00) === 0xd800 && (text.charCodeAt(i + 1) & 0xfc00) === 0xdc00;
}
