/** How documents are cut into texts, statistics with a known answer, and how texts are scored. */
import { expect, test } from "vitest";
import { type Evaluation, measureSources } from "../../../gpu-backend/research/evaluate.ts";
import { gainOf, overSources } from "../../../gpu-backend/research/statistics.ts";
import { cutTexts, longestPrompt, type Source, scoredTokens, withPrompt } from "../../../gpu-backend/research/texts.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

/** A tokenizer that makes each letter a token. The letter "m" has two bytes, every other letter has one. */
const letters = {
  encode: (written: string) => [...written].map((letter) => letter.charCodeAt(0)),
  pieceOf: (id: number) => new Uint8Array(id === 109 ? 2 : 1).fill(id),
};
const size = longestPrompt + scoredTokens;
const silent = { stage() {}, advance() {}, note() {}, end() {} };

test("a mean over sources counts each once, and its interval knows that sources differ", () => {
  const source = (mean: number, documents: number) =>
    Array.from({ length: documents }, (_, i) => ({ document: `${i}`, sum: 10 * mean, tokens: 10 }));
  expect(overSources([source(1, 50), source(1, 2)])).toEqual({ mean: 1, ci95: [1, 1] });
  const apart = overSources([source(0, 100), source(2, 100), source(4, 100), source(6, 100)])!;
  expect(apart.mean).toBe(3);
  // Within a source all documents agree, so the interval's width comes from drawing sources alone.
  expect(apart.ci95[0]).toBeLessThanOrEqual(1);
  expect(apart.ci95[1]).toBeGreaterThanOrEqual(5);
  const empty = [{ document: "a", sum: 0, tokens: 0 }];
  expect(overSources([source(1, 2), empty])!.mean).toBe(1);
  expect(overSources([empty])).toBeNull();
});

test("the same tokens are scored after prompts of each length", () => {
  const [text] = cutTexts([{ name: "long", text: "ab".repeat(400) }], letters, 1);
  expect(withPrompt(text, longestPrompt)).toEqual(text.ids);
  expect(withPrompt(text, 8).slice(8)).toEqual(text.ids.slice(-scoredTokens));
  expect(withPrompt(text, 8)).toHaveLength(8 + scoredTokens);
});

test("the interval resamples documents: many texts of two documents are two observations", () => {
  const texts = (documentOf: (i: number) => string) =>
    Array.from({ length: 200 }, (_, i) => ({ document: documentOf(i), sum: i < 100 ? 0 : 64, tokens: 64 }));
  const alike = gainOf(texts((i) => (i < 100 ? "a" : "b")));
  expect(alike.mean).toBe(0.5);
  // A quarter of the resamples draw document a twice, another quarter b twice.
  expect(alike.ci95).toEqual([0, 1]);
  const apart = gainOf(texts(String));
  expect(apart.ci95[0]).toBeGreaterThan(0.4);
  expect(apart.ci95[1]).toBeLessThan(0.6);
});

test("each document gives a text before any gives a second, and texts do not overlap", () => {
  const documents = [
    { name: "long", text: "abcdefg".repeat(size) },
    { name: "short", text: "x".repeat(size - 1) },
    { name: "other", text: "m".repeat(2 * size) },
  ];
  const texts = cutTexts(documents, letters, 4);
  expect(texts.map(({ document }) => document).sort()).toEqual(["long", "long", "other", "other"]);
  expect(new Set(texts.slice(0, 2).map(({ document }) => document)).size).toBe(2);
  expect(texts.every(({ ids }) => ids.length === size)).toBe(true);
  // The long document has room for seven texts, and gives each of them once.
  const ofLong = cutTexts([documents[0]], letters, 100).map(({ ids }) => ids.join());
  expect(ofLong).toHaveLength(7);
  expect(cutTexts(documents, letters, 4)).toEqual(texts);
});

/** Over a base at −4 nats every scored token gains 1 under the static adapter, 2 under the nearest and 3 under the mixture, alone or with a memory. */
async function score({ texts }: Source) {
  const level = (logprob: number) => texts.map(() => new Float32Array(scoredTokens).fill(logprob));
  return { base: level(-4), static: level(-3), nearest: level(-2), mixture: level(-1), memory: level(-1) };
}

async function measured(text: string): Promise<Evaluation> {
  const texts = cutTexts([{ name: "a", text }], letters, 2);
  const sources = (["trained", "new"] as const).map((group) => ({ group, name: `some ${group}`, texts }));
  const folder = temporaryFolder();
  const run = { threads: 1, folder, progress: silent };
  const prompts = await measureSources(sources, score, "key", letters, run);
  const failing = () => Promise.reject(new Error("scored again"));
  expect(await measureSources(sources, failing, "key", letters, run)).toEqual(prompts);
  await expect(measureSources(sources, failing, "another key", letters, run)).rejects.toThrow("scored again");
  return { model: "m", artifacts: "a".repeat(64), lock: "b".repeat(64), prompts };
}

test("gains, bits a byte and classes of tokens are what the scores say, and finished parts are not scored again", async () => {
  // Half of the scored tokens are spaces, and "m" has two bytes.
  const evaluation = await measured(" m".repeat(size));
  for (const { gains, base } of evaluation.prompts.flatMap(({ groups }) => groups)) {
    const { parts, worst } = gains.mixture;
    expect(Object.fromEntries(Object.entries(gains).map(([of, { gain }]) => [of, gain.mean]))).toEqual({
      ...{ static: 1, nearest: 2, mixture: 3, memory: 3, "memory over mixture": 0 },
      ...{ "mixture over static": 2, "mixture over nearest": 1 },
    });
    expect(base.nats).toBe(4);
    expect(base.bitsPerByte).toBeCloseTo(4 / Math.LN2 / 1.5, 6);
    expect(worst).toBe(3);
    expect(parts["no white space"].mean).toBe(3);
    expect(parts["in the prompt"].mean).toBe(3);
    expect(parts["not in the prompt"]).toBeUndefined();
  }
});
