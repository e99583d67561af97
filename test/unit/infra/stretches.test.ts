/** How a text is cut into stretches for scoring, and how their scores are averaged. */
import { expect, test } from "vitest";
import { besideBase, cutInTwo, mean, scoreTable, stretchesOf } from "../../../infra/api/stretches.ts";
import { fuzzText } from "../../support/fuzz-text.ts";
import { seededRandom } from "../../support/steps.ts";

test("stretches and halves hold the whole text, and cut no character", () => {
  const seed = Date.now() % 1_000_000;
  console.log(`seed ${seed}`);
  const random = seededRandom(seed);
  for (let i = 0; i < 100; i++) {
    const text = Array.from({ length: 60 }, () => fuzzText(random)).join(random() < 0.5 ? " " : "");
    const stretches = stretchesOf(text);
    expect(stretches.join("")).toBe(text);
    for (const stretch of stretches) {
      expect(stretch.length).toBeLessThanOrEqual(1700);
      if ([...stretch].length < 2) continue;
      const halves = cutInTwo(stretch);
      expect(halves.join("")).toBe(stretch);
      expect(halves.every((half) => half.length > 0 && half.isWellFormed())).toBe(stretch.isWellFormed());
    }
  }
  const halves = ["a😀", "😀a", "\udc00\udc00"].map(cutInTwo);
  expect(halves).toEqual([
    ["a", "😀"],
    ["😀", "a"],
    ["\udc00", "\udc00"],
  ]);
  expect(() => cutInTwo("😀")).toThrow("not even one character");
  expect(stretchesOf(`${"a".repeat(1499)}😀${"b".repeat(200)}`)[0].at(-1)).not.toBe("\ud83d");
});

test("the mean of scores is weighted by tokens, and a table compares each with the base", () => {
  const score = (nats: number, tokens: number) => ({ nats, tokens, perplexity: Math.exp(nats) });
  expect(mean([score(4, 100), score(2, 300)])).toEqual(score(2.5, 400));
  const table = scoreTable({ base: score(4, 9), "nearest adapter": score(4.1, 9), mixture: score(3.5, 9) });
  expect(table).toMatch(/^base +54\.6 +4\.000$/m);
  expect(table).toMatch(/^nearest adapter +60\.3 +4\.100 {2}perplexity 11% higher than the base's$/m);
  expect(table).toMatch(/^mixture +33\.1 +3\.500 {2}perplexity 39% lower than the base's$/m);
});

test.each([
  [0.25, "perplexity 22% lower than the base's"],
  [-0.05, "perplexity 5% higher than the base's"],
  [0.004, "perplexity the same as the base's"],
  [-0.004, "perplexity the same as the base's"],
])("a gain of %f nats a token is %s", (nats, words) => {
  expect(besideBase(nats)).toBe(words);
});
