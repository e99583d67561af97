import { expect, test } from "vitest";
import { partCharacters, partsOf } from "../../../shared/tokenizer/text-parts.ts";

test.each<[string, string, RegExp | null]>([
  ["lines", "The harbour master\nkeeps his ledger. ".repeat(3000), /\n$/],
  ["no line", "The harbour master keeps his ledger.".repeat(3000), /\S$/],
  ["no word", "a".repeat(100_000), null],
  ["pairs", `a${"\u{1f409}".repeat(20_000)}`, null],
])("parts of a text of %s are well formed and bounded, and end where few tokens are cut", (_, text, ending) => {
  const parts = [...partsOf(text)];
  expect(parts.join("")).toBe(text);
  expect(Math.max(...parts.map(({ length }) => length))).toBeLessThanOrEqual(partCharacters);
  for (const part of parts) expect(part.isWellFormed()).toBe(true);
  for (const part of parts.slice(0, -1)) {
    expect(part.length).toBeGreaterThan(partCharacters / 2);
    if (ending) expect(part).toMatch(ending);
  }
  if (ending?.source.includes("S")) for (const part of parts.slice(1)) expect(part[0]).toBe(" ");
});

test("a short text is one part, no text none", () => {
  expect([...partsOf("ab c")]).toEqual(["ab c"]);
  expect([...partsOf("")]).toEqual([]);
});
