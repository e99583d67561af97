/** Tokens as they are shown: of a stream, of an echo, and with the other side's figures. */
import { expect, test } from "vitest";
import { fillScores, isText, piecesOf, placesOf, scoreOfLast, spansOf } from "../../../../edge/page/pieces.ts";
import type { CompletionChoice } from "../../../../shared/contracts/responses.ts";

const choiceOf = (
  text: string,
  tokens: string[],
  offsets: number[],
  logprobs: (number | null)[],
): CompletionChoice => ({
  index: 0,
  text,
  finish_reason: null,
  logprobs: {
    tokens,
    token_logprobs: logprobs,
    top_logprobs: tokens.map((token, i) => ({ [token]: logprobs[i] ?? 0, b: -2, c: -3, d: -4, e: -5, f: -6 })),
    text_offset: offsets,
  },
});

test("a chunk of one token is a piece with its five likeliest alternatives", () => {
  const [piece, ...others] = piecesOf(choiceOf(" a", [" a"], [0], [-1]), "adapted");
  expect(others).toEqual([]);
  expect(piece).toMatchObject({ text: " a", tokens: [" a"], adapted: -1, base: null, source: null });
  expect(piece.alternatives.map(([token]) => token)).toEqual([" a", "b", "c", "d", "e"]);
});

test("tokens that make one character together are one piece", () => {
  const pieces = piecesOf(choiceOf("é", ["bytes:\\xc3", "bytes:\\xa9"], [0, 0], [-1, -2]), "base");
  expect(pieces).toMatchObject([{ text: "é", tokens: ["bytes:\\xc3", "bytes:\\xa9"], adapted: null, base: -3 }]);
  expect(piecesOf(choiceOf("", [], [], []), "base")).toEqual([]);
});

test("an echo falls into spans whose texts are the whole text", () => {
  const spans = spansOf(
    choiceOf("où 😀", ["o", "bytes:\\xc3", "bytes:\\xb9", " ", "bytes:\\xf0", "bytes:\\x9f"], [0, 1, 1, 2, 3, 3], []),
  );
  expect(spans).toEqual([
    { text: "o", start: 0, end: 1 },
    { text: "ù", start: 1, end: 3 },
    { text: " ", start: 3, end: 4 },
    { text: "😀", start: 4, end: 6 },
  ]);
});

test("figures of both sides are given from the end, as far as the text falls into the same tokens", () => {
  const pieces = [" a", " b", " c"].flatMap((token) => piecesOf(choiceOf(token, [token], [0], [-1]), "base"));
  const scored = ["x", " b", " c"].map((token, i) => ({ token, logprob: -10 - i, base_logprob: -20 - i }));
  fillScores(pieces, scored);
  expect(pieces.map(({ adapted, base }) => [adapted, base])).toEqual([
    [null, -1],
    [-11, -21],
    [-12, -22],
  ]);
});

test("a chunk of a chat, which has no log-probabilities of its own, is read from its comparison and its sources", () => {
  const compare = { tokens: [" a", "b"].map((token) => ({ token, logprob: -1, base_logprob: -2 })) };
  const sources = [" a", "b"].map((token, i) => ({ token, share: i / 2, passages: [] }));
  const pieces = piecesOf({ text: " ab", logprobs: null, chameleon: { compare, sources } }, "adapted");
  expect(pieces).toMatchObject([
    { text: " a", adapted: -1, base: -2, source: { token: " a", share: 0 } },
    { text: "b", adapted: -1, base: -2, source: { token: "b", share: 0.5 } },
  ]);
  expect(piecesOf({ text: "x", logprobs: null }, "adapted")).toMatchObject([{ text: "x", tokens: [], adapted: null }]);
});

test("the score of an alternative holds only where the text before it was split alike", () => {
  const choice = choiceOf("ab c", ["a", "b", " c"], [0, 1, 2], [null, -1, -2]);
  expect(scoreOfLast(choice, ["b", " c"])).toBe(-2);
  expect(scoreOfLast(choice, ["ab", " c"])).toBeNull();
  expect(scoreOfLast(choice, ["b", "c"])).toBeNull();
});

test("only whole characters can be gone on from", () => {
  expect([" a", "bytes:\\xc3", "<|endoftext|>"].map(isText)).toEqual([true, false, false]);
});

test("beginnings that are weighed are spread over the prompt, end with all of it, and take few tokens together", () => {
  expect(placesOf(1)).toEqual([1]);
  expect(placesOf(4)).toEqual([1, 2, 3, 4]);
  for (const tokens of [20, 100, 500, 1000, 2000]) {
    const places = placesOf(tokens);
    expect(places).toEqual([...new Set(places)].toSorted((a, b) => a - b));
    expect(places.at(-1) ?? tokens).toBe(tokens);
    expect(places.reduce((sum, place) => sum + place, 0)).toBeLessThanOrEqual(Math.max(1024 + tokens, 0));
  }
  expect(placesOf(5000)).toEqual([]);
});
