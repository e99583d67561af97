/** The page as it is served: one small document that asks nobody else for anything. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { expect, test } from "vitest";
import { buildPage, stagePage } from "../../../infra/stage-page.ts";

const mostBytes = 60_000;

test("the page is at most 60 kB gzip", async () => {
  const bytes = gzipSync(await buildPage()).byteLength;
  expect(bytes).toBeLessThanOrEqual(mostBytes);
});

test("it names no other origin and no further file to load", async () => {
  const html = await buildPage();
  const loaded = [
    ...html.matchAll(/<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*\b(?:src|data)=/g),
    ...html.matchAll(/<link\b[^>]*\bhref="(?!data:)[^"]*"/g),
    ...html.matchAll(/@import|\burl\((?!["']?data:)/g),
    ...html.matchAll(/\b(?:fetch|import|WebSocket|EventSource)\(["'`]https?:/g),
  ].map(([found]) => found);
  expect(loaded).toEqual([]);
  expect(html).not.toMatch(/\beval\(|new Function\(/);
});

test("staging writes it once", async () => {
  const target = await mkdtemp(path.join(tmpdir(), "page-"));
  try {
    expect(await stagePage(target)).toEqual(["index.html"]);
    expect(await stagePage(target)).toEqual([]);
    expect(await readFile(path.join(target, "index.html"), "utf8")).toBe(await buildPage());
  } finally {
    await rm(target, { recursive: true });
  }
});
