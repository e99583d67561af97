/**
 * The tokens of an answer as they are shown. A piece is what one chunk brought: mostly one token; several where they make
 * one character together.
 */
import type {
  ChameleonBlock,
  ComparedToken,
  CompletionChoice,
  SourcedToken,
} from "../../shared/contracts/responses.ts";

/** Who wrote an answer. */
export type Side = "base" | "adapted";

/** Log-probabilities are null where they are not known. */
export interface Piece {
  text: string;
  tokens: string[];
  adapted: number | null;
  base: number | null;
  /** The likeliest tokens at the place of the first token, with their log-probabilities, likeliest first. */
  alternatives: [string, number][];
  /** What the reader's own text gave; null where the answer reads none. */
  source: SourcedToken | null;
}

/** One chunk of a choice, of a completion or of a chat. */
export interface TokenChunk {
  text: string;
  logprobs: CompletionChoice["logprobs"];
  chameleon?: Partial<Pick<ChameleonBlock, "compare" | "sources">> | undefined;
}

export const alternativesShown = 5;

/** The pieces of one chunk. */
export function piecesOf({ text, logprobs, chameleon }: TokenChunk, side: Side): Piece[] {
  if (text === "") return [];
  const compared = chameleon?.compare?.tokens ?? [];
  const sources = chameleon?.sources ?? [];
  const tokens = logprobs?.tokens ?? (compared.length > 0 ? compared : sources).map(({ token }) => token);
  const one = (from: number, to: number, shown: string): Piece => {
    const own = logprobs ? sumOf(logprobs.token_logprobs.slice(from, to)) : null;
    const both = compared.length === tokens.length && compared.length > 0 ? compared.slice(from, to) : null;
    return {
      text: shown,
      tokens: tokens.slice(from, to),
      adapted: side === "base" ? null : (own ?? (both && sumOf(both.map(({ logprob }) => logprob)))),
      base: side === "base" ? own : both && sumOf(both.map(({ base_logprob }) => base_logprob)),
      alternatives: Object.entries(logprobs?.top_logprobs[from] ?? {})
        .sort(([, a], [, b]) => b - a)
        .slice(0, alternativesShown),
      source: sourceOf(shown, sources.slice(from, to)),
    };
  };
  if (tokens.join("") !== text) return [one(0, tokens.length, text)];
  return tokens.map((token, i) => one(i, i + 1, token));
}

function sourceOf(token: string, sources: readonly SourcedToken[]): SourcedToken | null {
  if (sources.length === 0) return null;
  const share = Math.max(...sources.map((one) => one.share));
  return { token, share, passages: sources.flatMap(({ passages }) => passages) };
}

function sumOf(logprobs: readonly (number | null)[]): number | null {
  return logprobs.reduce<number | null>((sum, one) => (sum === null || one === null ? null : sum + one), 0);
}

/** Adapted minus base, in log-probability; null where one is not known. */
export function differenceOf({ adapted, base }: Piece): number | null {
  return adapted === null || base === null ? null : adapted - base;
}

/**
 * Gives the last pieces what a scoring of the same text says of their tokens by both sides. Where the text was split into
 * other tokens, the pieces before stay as they are.
 */
export function fillScores(pieces: readonly Piece[], scored: readonly ComparedToken[]): void {
  let at = scored.length;
  for (const piece of pieces.toReversed()) {
    const found = scored.slice(at - piece.tokens.length, at);
    if (found.length === 0 || found.some(({ token }, i) => token !== piece.tokens[i])) return;
    piece.adapted = sumOf(found.map(({ logprob }) => logprob));
    piece.base = sumOf(found.map(({ base_logprob }) => base_logprob));
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

/** Beginnings of a prompt that are weighed, at most, and their tokens together: each is a prompt of its own to the server. */
const mostPlaces = 16;
const mostTokens = 1024;

/** Ends of the beginnings that are weighed, spread over a prompt of so many tokens; the last is the whole prompt. Rising. */
export function placesOf(tokens: number): number[] {
  const places = Math.min(tokens, mostPlaces, Math.floor((2 * mostTokens) / tokens));
  return Array.from({ length: places }, (_, i) => Math.round(((i + 1) * tokens) / places));
}
