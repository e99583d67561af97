/** The documents site: what its pages are made of. `npm run docs` builds it, and fails at a dead link. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { commandsOf } from "../../../infra/commands.mjs";
import { siteLinks } from "../../../infra/site/links.ts";
import { pages } from "../../../infra/site/pages.ts";
import { edgeSettings, referencePages } from "../../../infra/site/reference.ts";
import { limitTable } from "../../../shared/contracts/limits.ts";
import { errorTable } from "../../../shared/errors.ts";

const rewritten = (markdown: string, file = "infra/docs/start.md") => {
  const images = new Set<string>();
  const text = siteLinks(markdown, file, (linked) => (linked === "edge/API.md" ? "reference/api" : undefined), images);
  return { text, images: [...images] };
};

test("links lead to pages of the site, and those to code keep their text alone", () => {
  expect(
    rewritten("[a](../../edge/API.md#errors), [b](../site/pages.ts), [c](https://example.com), [d](#e)").text,
  ).toBe("[a](/reference/api#errors), b, [c](https://example.com), [d](#e)");
});

test("what only looks like a link in code stays as it is", () => {
  const code = "`[a](b.ts)`\n\n```ts\nconst [a](b.ts);\n```\n";
  expect(rewritten(code).text).toBe(code);
});

test("images are collected", () => {
  expect(rewritten("![page](infra/docs/page.png)", "README.md")).toEqual({
    text: "![page](/images/page.png)",
    images: ["infra/docs/page.png"],
  });
});

test("paths and sources of pages are unique", () => {
  expect(new Set(pages.map(({ path }) => path)).size).toBe(pages.length);
  expect(new Set(pages.map(({ from }) => JSON.stringify(from))).size).toBe(pages.length);
});

test("the reference has every error code, limit and variable of the Worker", async () => {
  const errors = await referencePages.errors();
  for (const [kind, { code, status }] of Object.entries(errorTable)) {
    expect(errors).toContain(`| \`${code ?? kind}\` | ${status} |`);
  }
  const limits = await referencePages.limits();
  for (const { bounds } of Object.values(limitTable)) expect(limits).toContain(bounds);
  const toml = readFileSync(new URL("../../../wrangler.toml", import.meta.url), "utf8");
  const settings = await referencePages.settings();
  const names = edgeSettings(toml).map(({ name }) => name);
  expect(names).toContain("BACKEND_URLS");
  for (const name of names) expect(settings).toContain(`| \`${name}\` |`);
});

test("a variable of the Worker without a comment is an error that names it", () => {
  expect(() => edgeSettings('[vars]\n# Said.\nA = "1"\nB = "2"\n')).toThrow("B");
});

test("the reference has every metric with its type", async () => {
  const metrics = await referencePages.metrics();
  expect(metrics).toMatch(/\| `vllm:time_to_first_token_seconds` \| histogram \| \w/);
  expect(metrics).not.toMatch(/\| {2}\||undefined/);
});

test("each command is named once", () => {
  const names = Object.keys(commandsOf(true));
  expect(new Set(names).size).toBe(names.length);
  expect(names).toContain("docs");
});
