/**
 * The tokens of an answer as they are shown. A piece is what one chunk brought: mostly one token; several where they make
 * one character together.
 */
import type { ComparedToken, CompletionChoice } from "../../shared/contracts/responses.ts";

export interface Piece {
  text: string;
  tokens: string[];
  /** Log-probability by what answered; null where the API tells none. */
  logprob: number | null;
  /** The same by the other side: the base for an adapted answer, the adapted model for the base's. */
  other: number | null;
  /** The likeliest tokens at the place of the first token, with their log-probabilities, likeliest first. */
  alternatives: [string, number][];
}

/** The pieces of one chunk of a choice. */
export function piecesOf({ text, logprobs, chameleon }: CompletionChoice): Piece[] {
  const tokens = logprobs?.tokens ?? [];
  if (text === "" || tokens.length === 0) return text === "" ? [] : [{ ...unknown, text }];
  const compared = chameleon?.compare?.tokens ?? [];
  const one = (from: number, to: number, shown: string): Piece => ({
    text: shown,
    tokens: tokens.slice(from, to),
    logprob: sumOf(logprobs!.token_logprobs.slice(from, to)),
    other:
      compared.length === tokens.length ? sumOf(compared.slice(from, to).map((token) => token.base_logprob)) : null,
    alternatives: Object.entries(logprobs!.top_logprobs[from] ?? {})
      .sort(([, a], [, b]) => b - a)
      .slice(0, alternativesShown),
  });
  if (tokens.join("") !== text) return [one(0, tokens.length, text)];
  return tokens.map((token, i) => one(i, i + 1, token));
}

export const alternativesShown = 5;
const unknown: Piece = { text: "", tokens: [], logprob: null, other: null, alternatives: [] };

function sumOf(logprobs: readonly (number | null)[]): number | null {
  return logprobs.reduce<number | null>((sum, one) => (sum === null || one === null ? null : sum + one), 0);
}

/**
 * Gives the last pieces what a scoring of the same text says of their tokens by both sides, where `own` names this side's
 * figure. Where the text was split into other tokens, the pieces before stay as they are.
 */
export function fillScores(
  pieces: readonly Piece[],
  scored: readonly ComparedToken[],
  own: "logprob" | "base_logprob",
): void {
  const other = own === "logprob" ? "base_logprob" : "logprob";
  let at = scored.length;
  for (const piece of pieces.toReversed()) {
    const found = scored.slice(at - piece.tokens.length, at);
    if (found.length === 0 || found.some(({ token }, i) => token !== piece.tokens[i])) return;
    piece.logprob = sumOf(found.map((token) => token[own]));
    piece.other = sumOf(found.map((token) => token[other]));
    at -= piece.tokens.length;
  }
}

/** A stretch of a text and the tokens [start, end) that make it. */
export interface Span {
  text: string;
  start: number;
  end: number;
}

/** The text of an echo, token by token; tokens that make one character together are one span. */
export function spansOf({ text, logprobs }: CompletionChoice): Span[] {
  const characters = [...text];
  const offsets = logprobs?.text_offset ?? [];
  const spans: Span[] = [];
  let start = 0;
  for (let end = 1; end <= offsets.length; end++) {
    const shown = characters.slice(offsets[start], offsets[end] ?? characters.length).join("");
    if (shown === "" && end < offsets.length) continue;
    spans.push({ text: shown, start, end });
    start = end;
  }
  return spans;
}

/** A token that is no text of its own: part of a character, or the end of the document. */
export function isText(token: string): boolean {
  return !token.startsWith("bytes:\\x") && !/^<\|.*\|>$/.test(token);
}

/**
 * The log-probability of the last token of an echoed text; null where the text does not end in the tokens of `tail`, since
 * then it was split otherwise and the figure would be that of another question.
 */
export function scoreOfLast({ logprobs }: CompletionChoice, tail: readonly string[]): number | null {
  const end = logprobs?.tokens.slice(-tail.length) ?? [];
  return tail.every((token, i) => token === end[i]) ? (logprobs?.token_logprobs.at(-1) ?? null) : null;
}
