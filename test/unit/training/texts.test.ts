/** How evaluation cuts texts, and its statistics on cases with a known answer. */
import { expect, test } from "vitest";
import { difference, worstOf } from "../../../gpu-backend/research/evaluation/statistics.ts";
import { cutTexts, leastPrompt, scoredTokens, withPrompt } from "../../../gpu-backend/research/evaluation/texts.ts";

const text = (document: string) => ({ document, scored: scoredTokens });
/** A token a letter; "m" takes two bytes. */
const letters = {
  encode: (written: string) => [...written].map((letter) => letter.charCodeAt(0)),
  pieceOf: (id: number) => new Uint8Array(id === 109 ? 2 : 1),
};

test("a difference is the mean over tokens, in nats", () => {
  expect(difference([text("a"), text("b")], [-64, -128], [-128, -320]).nats.mean).toBeCloseTo((64 + 192) / 128, 12);
});

test("the interval resamples documents: many texts of two documents are two observations", () => {
  const gains = Array.from({ length: 200 }, (_, i) => (i < 100 ? 0 : scoredTokens));
  const nothing = gains.map(() => 0);
  const alike = difference(
    gains.map((_, i) => text(i < 100 ? "a" : "b")),
    gains,
    nothing,
  );
  expect(alike.nats.mean).toBe(0.5);
  // A quarter of the resamples have one document alone, twice.
  expect(alike.nats.ci95).toEqual([0, 1]);
  const apart = difference(
    gains.map((_, i) => text(`${i}`)),
    gains,
    nothing,
  );
  expect(apart.nats.ci95[0]).toBeGreaterThan(0.4);
  expect(apart.nats.ci95[1]).toBeLessThan(0.6);
});

test("equal texts have an interval of no width", () => {
  const texts = ["a", "b", "c"].map((document) => text(document));
  expect(difference(texts, [-32, -32, -32], [-64, -64, -64]).nats).toEqual({ mean: 0.5, ci95: [0.5, 0.5] });
});

test("the worst 5% are the lowest, their number rounded down but one at least", () => {
  expect(worstOf(Array.from({ length: 59 }, (_, i) => i - 10))).toBe(-9.5);
  expect(worstOf([3, 1, 2])).toBe(1);
});

test("each document gives a text before any gives a second, and texts do not overlap", () => {
  const size = leastPrompt + scoredTokens;
  const documents = [
    { name: "long", text: "abcdefg".repeat(size) },
    { name: "short", text: "x".repeat(size - 1) },
    { name: "other", text: "m".repeat(2 * size) },
  ];
  const texts = cutTexts(documents, letters, 4);
  expect(texts.map(({ document }) => document).sort()).toEqual(["long", "long", "other", "other"]);
  expect(new Set(texts.slice(0, 2).map(({ document }) => document)).size).toBe(2);
  expect(texts.every(({ ids }) => ids.length === size)).toBe(true);
  expect(texts.find(({ document }) => document === "other")!.bytes).toBe(2 * scoredTokens);
  // The document has seven, each once.
  const ofLong = cutTexts([documents[0]], letters, 100).map(({ ids }) => ids.join());
  expect(ofLong).toHaveLength(7);
  expect(cutTexts(documents, letters, 4)).toEqual(texts);
});

test("whole documents are cut only where their beginnings give too few texts", () => {
  const size = leastPrompt + scoredTokens;
  const documents = ["a", "b"].map((name) => ({ name, text: name.repeat(300 * size) }));
  const ofBeginnings = 2 * Math.floor(20_000 / size);
  expect(cutTexts(documents, letters, ofBeginnings + 1).length).toBe(ofBeginnings + 1);
  expect(cutTexts(documents, letters, 1_000).length).toBe(600);
  const long = [
    { name: "long", text: Array.from({ length: 300 * size }, (_, i) => String.fromCharCode(97 + (i % 26))).join("") },
  ];
  const beginning = [{ ...long[0], text: long[0].text.slice(0, 20_000) }];
  expect(cutTexts(long, letters, 100)).toEqual(cutTexts(beginning, letters, 100));
});

test("after a prompt of any length the same tokens are scored", () => {
  const [cut] = cutTexts([{ name: "a", text: "0123456789abcdef".repeat(8) }], letters, 1);
  for (const promptTokens of [8, 16, 32, 64]) {
    const ids = withPrompt(cut, promptTokens);
    expect(ids).toHaveLength(promptTokens + scoredTokens);
    expect(ids.slice(promptTokens)).toEqual(cut.ids.slice(leastPrompt));
  }
});
