/** What the edge serves to browsers: the API's document, and the page, one small document that sends requests to nobody else. */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { expect, test } from "vitest";
import { buildPage, stagePages } from "../../../infra/stage-pages.ts";
import { read } from "../../support/project.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

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

test("writes the page and the document, of the package's version, with what draws it; a second time nothing", async () => {
  const target = temporaryFolder();
  const names = ["openapi.json", "docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "index.html"];
  expect(await stagePages(target)).toEqual(names);
  const { version } = JSON.parse(read("package.json"));
  const document = JSON.parse(await readFile(path.join(target, "openapi.json"), "utf8"));
  expect(document).toMatchObject({ openapi: "3.1.0", info: { version } });
  for (const name of names) expect((await readFile(path.join(target, name))).length).toBeGreaterThan(10_000);
  expect(await readFile(path.join(target, "index.html"), "utf8")).toBe(await buildPage());
  expect(await stagePages(target)).toEqual([]);
});
