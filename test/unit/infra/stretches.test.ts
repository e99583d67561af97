/** How a text is cut into stretches for scoring. */
import { expect, test } from "vitest";
import { cutInTwo, stretchesOf } from "../../../infra/api/stretches.ts";
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
