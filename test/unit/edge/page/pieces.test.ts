/** Tokens as the page shows them: those of a stream, and those of an echoed prompt. */
import { expect, test } from "vitest";
import { piecesOf, spansOf } from "../../../../edge/page/pieces.ts";
import type { CompletionChoice } from "../../../../shared/contracts/responses.ts";

function choiceOf(text: string, tokens: string[], text_offset: number[], token_logprobs: number[]): CompletionChoice {
  const top_logprobs = tokens.map((token, i) => ({
    [token]: token_logprobs[i] ?? 0,
    b: -2,
    c: -3,
    d: -4,
    e: -5,
    f: -6,
  }));
  return { index: 0, text, finish_reason: null, logprobs: { tokens, token_logprobs, top_logprobs, text_offset } };
}

test("a chunk's token, or tokens of one character, are a piece with the five likeliest alternatives", () => {
  const [piece, ...others] = piecesOf(choiceOf(" a", [" a"], [0], [-1]), "adapted");
  expect(others).toEqual([]);
  expect(piece).toMatchObject({ text: " a", tokens: 1, adapted: -1, base: null, source: null });
  expect(piece.alternatives.map(([token]) => token)).toEqual([" a", "b", "c", "d", "e"]);
  // Tokens that make one character together are one piece.
  const pieces = piecesOf(choiceOf("é", ["bytes:\\xc3", "bytes:\\xa9"], [0, 0], [-1, -2]), "base");
  expect(pieces).toMatchObject([{ text: "é", tokens: 2, adapted: null, base: -3 }]);
  expect(piecesOf(choiceOf("", [], [], []), "base")).toEqual([]);
});

test("an echo falls into spans whose texts are the whole text", () => {
  const tokens = ["o", "bytes:\\xc3", "bytes:\\xb9", " ", "bytes:\\xf0", "bytes:\\x9f"];
  expect(spansOf(choiceOf("où 😀", tokens, [0, 1, 1, 2, 3, 3], []))).toEqual([
    { text: "o", start: 0, end: 1 },
    { text: "ù", start: 1, end: 3 },
    { text: " ", start: 3, end: 4 },
    { text: "😀", start: 4, end: 6 },
  ]);
});
