import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { expect, test } from "vitest";
import { documentsOf, splitDocuments, withEnoughDocuments } from "../../../gpu-backend/training/corpus/documents.ts";
import { withoutBoilerplate } from "../../../gpu-backend/training/corpus/packages.ts";
import { parseSource, readCorpus } from "../../../gpu-backend/training/corpus/read-corpus.ts";
import { prefixTokens, scoredTokens, windowsOf, windowTokens } from "../../../gpu-backend/training/corpus/windows.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

test("a JSONL record is a document: its text, or all its strings; any other file is one, a blank one none", () => {
  const lines = ['{"text":"one","other":"no"}', "", '{"question":"two?","n":3,"answer":"three"}', '"four"'].join("\n");
  expect(documentsOf("a.jsonl", lines).map(({ text }) => text)).toEqual(["one", "two?\nthree", "four"]);
  expect(() => documentsOf("a.jsonl", '{"text":"one"}\nnot json')).toThrow("a.jsonl:2");
  expect(documentsOf("a.md", "# Title\n\nline\nline")).toEqual([{ name: "a.md", text: "# Title\n\nline\nline" }]);
  expect(documentsOf("a.txt", " \n")).toEqual([]);
});

test("one book becomes sections that, joined, are the book; enough documents stay whole", () => {
  const book = Array.from({ length: 3000 }, (_, i) => `Paragraph ${i} of this book.`).join("\n\n");
  const sections = withEnoughDocuments([{ name: "book", text: book }]);
  expect(sections.length).toBeGreaterThan(3);
  expect(sections.map(({ text }) => text).join("")).toBe(book);
  for (const { text } of sections.slice(1)) expect(text).toMatch(/^Paragraph/);
  const many = Array.from({ length: 10 }, (_, i) => ({ name: `${i}`, text: book }));
  expect(withEnoughDocuments(many)).toEqual(many);
});

test("folders and globs: text files at any depth, each text once, in path order", async () => {
  const folder = temporaryFolder();
  const files = { "b.txt": "beta", "a.md": "alpha", "copy.txt": "beta", "x.png": "no" };
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
  const texts = async (path: string) => (await readCorpus(parseSource(path))).documents.map(({ text }) => text);
  expect(await texts(folder)).toEqual(["alpha", "beta"]);
  expect(await texts(join(folder, "*.md"))).toEqual(["alpha"]);
  await expect(readCorpus(parseSource(`mine=${folder}/*.rst`))).rejects.toThrow("corpus mine: no text");
});

test("every document is in exactly one split, a tenth in each held-out one, wherever it stands", () => {
  const documents = Array.from({ length: 200 }, (_, i) => ({ text: `document ${i}` }));
  const splits = splitDocuments("c", documents);
  expect(splits.filter((split) => split === "test")).toHaveLength(20);
  expect(splits.filter((split) => split === "validation")).toHaveLength(20);
  expect(splitDocuments("c", documents.toReversed())).toEqual(splits.toReversed());
  expect(new Set(splitDocuments("c", documents.slice(0, 3))).size).toBe(3);
  expect(() => splitDocuments("c", documents.slice(0, 2))).toThrow(/c has 2/);
});

test("windows tile a document in order, never past its end, none too short to score", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 1500 }), (length) => {
      const ids = Int32Array.from({ length }, (_, i) => i);
      const windows = windowsOf(0, 0, ids);
      for (const [i, window] of windows.entries()) {
        expect(window.tokenIds[0]).toBe(i * windowTokens);
        expect(scoredTokens(window)).toBeGreaterThanOrEqual(16);
        expect(window.tokenIds.length).toBeLessThanOrEqual(windowTokens);
      }
      const covered = windows.reduce((sum, window) => sum + window.tokenIds.length, 0);
      expect(length - covered).toBeLessThan(prefixTokens + 16);
    }),
    { seed: 3 },
  );
});

const page = (own: string) => `Home |  Contents\n\n${own}\n\n\n\n\nmore of ${own}  \nNext   page\n`;

test("text that many pages share is removed, whatever its spaces, and a page of nothing else; a few pages keep theirs", () => {
  const pages = Array.from({ length: 12 }, (_, i) => page(`page ${i}`));
  for (const text of withoutBoilerplate(pages.slice(0, 4))) expect(text).toContain("Next   page");
  pages[3] = pages[3].replace("Next   page", "  Next page");
  const own = pages.map((_, i) => `page ${i}\n\nmore of page ${i}\n`);
  for (const more of [[], ["Home | Contents\n"]]) expect(withoutBoilerplate([...pages, ...more])).toEqual(own);
});
