import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { stageDocs } from "../../../infra/stage-docs.ts";

let target: string;
beforeEach(async () => {
  target = await mkdtemp(path.join(tmpdir(), "docs-"));
});
afterEach(() => rm(target, { recursive: true }));

test("writes the document, of the package's version, and what draws it; a second time nothing", async () => {
  const names = ["openapi.json", "docs/swagger-ui.css", "docs/swagger-ui-bundle.js"];
  expect(await stageDocs(target)).toEqual(names);
  const { version } = JSON.parse(await readFile(new URL("../../../package.json", import.meta.url), "utf8"));
  const document = JSON.parse(await readFile(path.join(target, "openapi.json"), "utf8"));
  expect(document).toMatchObject({ openapi: "3.1.0", info: { version } });
  for (const name of names) expect((await readFile(path.join(target, name))).length).toBeGreaterThan(10_000);
  expect(await stageDocs(target)).toEqual([]);
});
