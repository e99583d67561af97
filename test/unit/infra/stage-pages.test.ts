/** The page that the edge serves to browsers: one small document that sends requests to nobody else. */
import { gzipSync } from "node:zlib";
import { expect, test } from "vitest";
import { buildPage } from "../../../infra/stage-pages.ts";

test("the page has at most 60 kB in gzip, and names no other origin and no further file to load", async () => {
  const html = await buildPage();
  expect(gzipSync(html).byteLength).toBeLessThanOrEqual(60_000);
  const loaded = [
    ...html.matchAll(/<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*\b(?:src|data)=/g),
    ...html.matchAll(/<link\b[^>]*\bhref="(?!data:)[^"]*"/g),
    ...html.matchAll(/@import|\burl\((?!["']?data:)/g),
    ...html.matchAll(/\b(?:fetch|import|WebSocket|EventSource)\(["'`]https?:/g),
  ].map(([found]) => found);
  expect(loaded).toEqual([]);
  expect(html).not.toMatch(/\beval\(|new Function\(/);
});
