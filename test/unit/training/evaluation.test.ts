/** Evaluation: how documents are cut into texts, statistics with a known answer, tables and the page. */
import { expect, test } from "vitest";
import { type Evaluation, evaluationSchema, rounded } from "../../../gpu-backend/research/evaluation/data.ts";
import { gainTable, methodTable, questionTable } from "../../../gpu-backend/research/evaluation/render.ts";
import { byDocument, difference, overDomains, worstOf } from "../../../gpu-backend/research/evaluation/statistics.ts";
import {
  answerTexts,
  cutTexts,
  hasPrompt,
  minPromptTokens,
  scoredTokens,
  withPrompt,
} from "../../../gpu-backend/research/evaluation/texts.ts";

/** A token a letter; "m" takes two bytes. */
const letters = {
  encode: (written: string) => [...written].map((letter) => letter.charCodeAt(0)),
  pieceOf: (id: number) => new Uint8Array(id === 109 ? 2 : 1),
};

test("a mean over domains counts each once, and its interval knows that domains differ", () => {
  const domain = (mean: number, documents: number) =>
    Array.from({ length: documents }, () => ({ sum: 10 * mean, tokens: 10 }));
  const alike = overDomains([domain(1, 50), domain(1, 2)]);
  expect(alike).toEqual({ mean: 1, ci95: [1, 1] });
  const apart = overDomains([domain(0, 100), domain(2, 100), domain(4, 100), domain(6, 100)]);
  expect(apart.mean).toBe(3);
  // Documents agree within each domain, so the width comes from the draw of domains alone.
  expect(apart.ci95[0]).toBeLessThanOrEqual(1);
  expect(apart.ci95[1]).toBeGreaterThanOrEqual(5);
  expect(() => overDomains([domain(1, 1), []])).toThrow("without documents");
});

test("texts of one document are one observation", () => {
  const text = (document: string, scored: number) => ({ document, scored, bytes: 1 });
  expect(byDocument([text("a", 2), text("b", 3), text("a", 4)], [1, 2, 3])).toEqual([
    { sum: 4, tokens: 6 },
    { sum: 2, tokens: 3 },
  ]);
});

test("a text has as long a prompt as its document allows, and scores the same tokens after shorter ones", () => {
  const [long] = cutTexts([{ name: "long", text: "ab".repeat(400) }], letters, 1, 256);
  const [short] = cutTexts([{ name: "short", text: "ab".repeat(80) }], letters, 1, 256);
  expect([long, short].map((text) => hasPrompt(text, 256))).toEqual([true, false]);
  expect([long, short].map((text) => hasPrompt(text, 64))).toEqual([true, true]);
  for (const text of [long, short]) {
    expect(withPrompt(text, 8).slice(8)).toEqual(text.ids.slice(-scoredTokens));
    expect(withPrompt(text, 8)).toHaveLength(8 + scoredTokens);
  }
});

test("a question is the prompt of its answer, of which the first tokens are scored", () => {
  const record = { name: "q", text: `How many?\n${"x".repeat(100)}`, answerAt: 10 };
  const [text, ...others] = answerTexts([record, { name: "plain", text: "x".repeat(500) }], letters, 9);
  expect(others).toEqual([]);
  expect(text.scored).toBe(scoredTokens);
  expect(String.fromCharCode(...text.ids.slice(0, -text.scored))).toBe("How many?\n");
  expect(answerTexts([{ ...record, text: "How many?\n4" }], letters, 9)).toEqual([]);
});

const estimate = { mean: 0.1, ci95: [0.05, 0.15] as [number, number] };
const gains = {
  gains: { nearest: estimate, mixture: { ...estimate, mean: 0.1234 } },
  mixtureOver: { nearest: estimate },
};
const example: Evaluation = {
  ...{ model: "m", artifacts: "a".repeat(64), lock: "b".repeat(64), format: "fp32" },
  rows: (["trained", "new"] as const).flatMap((kind) =>
    ([8, 64, "question"] as const).map((prompt) => ({
      ...{ kind, name: `some ${kind}`, prompt, documents: 3, texts: 4, known: kind === "trained", heldOut: true },
      ...{ base: { nats: 3, bitsPerByte: 1.5 }, ...gains, worst: { nearest: -0.02, mixture: -0.01 } },
    })),
  ),
  means: [{ kind: "new", prompt: 64, sources: 1, ...gains }],
};

test("every table has rows as wide as its head", () => {
  expect(evaluationSchema.parse(example)).toEqual(example);
  for (const table of [gainTable(example, "new"), questionTable(example), methodTable(example)]) {
    const widths = table.split("\n").map((line) => line.split("|").length);
    expect(new Set(widths).size).toBe(1);
    expect(table).not.toMatch(/undefined|NaN/);
  }
});

test("rounding leaves whole numbers, names and nothing else alone", () => {
  expect(rounded({ a: 0.12345, b: [1, 2.0004], c: null, d: "x" })).toEqual({ a: 0.123, b: [1, 2], c: null, d: "x" });
});

const scoredText = (document: string) => ({ document, scored: scoredTokens });
test("a difference is the mean over tokens, in nats", () => {
  expect(difference([scoredText("a"), scoredText("b")], [-64, -128], [-128, -320]).nats.mean).toBeCloseTo(
    (64 + 192) / 128,
    12,
  );
});

test("the interval resamples documents: many texts of two documents are two observations", () => {
  const gains = Array.from({ length: 200 }, (_, i) => (i < 100 ? 0 : scoredTokens));
  const nothing = gains.map(() => 0);
  const alike = difference(
    gains.map((_, i) => scoredText(i < 100 ? "a" : "b")),
    gains,
    nothing,
  );
  expect(alike.nats.mean).toBe(0.5);
  // A quarter of the resamples have one document alone, twice.
  expect(alike.nats.ci95).toEqual([0, 1]);
  const apart = difference(
    gains.map((_, i) => scoredText(`${i}`)),
    gains,
    nothing,
  );
  expect(apart.nats.ci95[0]).toBeGreaterThan(0.4);
  expect(apart.nats.ci95[1]).toBeLessThan(0.6);
});

test("the worst 5% are the lowest, their number rounded down but one at least", () => {
  expect(worstOf(Array.from({ length: 59 }, (_, i) => i - 10))).toBe(-9.5);
  expect(worstOf([3, 1, 2])).toBe(1);
});

test("each document gives a text before any gives a second, and texts do not overlap", () => {
  const size = minPromptTokens + scoredTokens;
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
  const size = minPromptTokens + scoredTokens;
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
