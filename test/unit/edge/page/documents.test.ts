/** A user's documents before they are uploaded: their names, and which part of them is held back. */
import { expect, test } from "vitest";
import { divide, examplesIn, nameFor, pastedName, slugOf, stretchesOf } from "../../../../edge/page/documents.ts";

const words = (count: number) => Array.from({ length: count }, (_, i) => `word${i}`).join(" ");

test.each([
  ["Poemas del Río/uno.md", "", "poemas-del-rio"],
  ["Plan 2026.final.md", "", "plan-2026-final"],
  ["読書.txt", "", "my-text"],
  [pastedName, "  The tenant shall pay", "the-tenant-shall"],
  ["taken.md", "", "taken-3"],
])("an adapter of %s gets a name that a request can use", (name, text, expected) => {
  expect(nameFor([{ name, text }], (one) => ["taken", "taken-2"].includes(one))).toBe(expected);
});

test("the last document that is long enough is held back", () => {
  const documents = [words(200), words(200), "short"].map((text, i) => ({ name: `${i}`, text }));
  const { uploaded, held } = divide(documents);
  expect(held).toBe(documents[1]);
  expect(uploaded).toEqual([documents[0], documents[2]]);
});

test("of a single document the last tenth is held back, from the end of a word on; too little text is uploaded whole", () => {
  const text = words(2000);
  const { uploaded, held } = divide([{ name: "one", text }]);
  expect(uploaded[0].text + held!.text).toBe(text);
  expect(held!.text).toMatch(/^ word/);
  expect(held!.text.length / text.length).toBeCloseTo(0.1, 2);
  const short = [{ name: "one", text: words(30) }];
  expect(divide(short)).toEqual({ uploaded: short, held: null });
});

test("a text is cut at words, and without words between characters", () => {
  expect(stretchesOf("one two three four", 9, 9)).toEqual(["one two", " three", " four"]);
  expect(stretchesOf("one two three four", 9, 1)).toEqual(["one two"]);
  expect(stretchesOf("😀😀😀", 3, 9)).toEqual(["😀", "😀", "😀"]);
});

test("any name becomes one that the API takes, and an empty line divides examples", () => {
  const names = ["My Recipes!", "  _Été_ ", "données-2026", "***", `${"a".repeat(39)}-b`].map(slugOf);
  expect(names).toEqual(["my-recipes", "ete_", "donnees-2026", "my-text", "a".repeat(39)]);
  for (const name of names) expect(name).toMatch(/^[a-z0-9][a-z0-9_-]{0,62}$/);
  expect(examplesIn("\na\nb\n \n\nc\n")).toEqual(["a\nb", "c"]);
});
