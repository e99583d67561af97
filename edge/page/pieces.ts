/** Divides answers into pieces: tokens, or several tokens that make one character together. */
import type { CompletionChoice, SourcedToken } from "../../shared/contracts/responses.ts";

export type Side = "base" | "adapted";

/** `adapted` and `base`: log-probabilities with and without adapters; null if unknown. */
export interface Piece {
  text: string;
  tokens: number;
  adapted: number | null;
  base: number | null;
  /** The likeliest tokens at the piece's first token, with log-probabilities, the likeliest first. */
  alternatives: [string, number][];
  /** How the user's text took part in the piece; null if the answer reads none of the text. */
  source: SourcedToken | null;
}

type TokenChunk = Pick<CompletionChoice, "text" | "logprobs" | "chameleon">;

export const alternativesShown = 5;

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
      tokens: Math.max(to - from, 1),
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

export function differenceOf({ adapted, base }: Piece): number | null {
  return adapted === null || base === null ? null : adapted - base;
}

export interface Span {
  text: string;
  start: number;
  end: number;
}

/** One span for each token, or for several tokens that make one character together. */
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

/** Maximum number of beginnings, and of their tokens in sum. The server reads each beginning as a prompt. */
const mostBeginnings = 16;
const mostTokens = 1024;

/** Beginnings of a prompt, from the shortest to the whole prompt. They end between words, or within very long words. */
export function beginningsOf(prompt: string, promptTokens: number): string[] {
  const ends = Array.from(prompt.matchAll(/\S{1,20}\s*$|\S{1,20}/gu), ({ index, 0: word }) => index + word.length);
  const count = Math.min(ends.length, mostBeginnings, Math.floor((2 * mostTokens) / promptTokens));
  return Array.from({ length: count }, (_, i) =>
    prompt.slice(0, ends[Math.round(((i + 1) * ends.length) / count) - 1]),
  );
}
