/** The documents site: what its pages are made of. `npm run docs` builds it, and fails at a dead link. */
import { expect, test } from "vitest";
import { readConfig, type Variables } from "../../../edge/config.ts";
import { environmentSchema } from "../../../gpu-backend/config.ts";
import { flagOf, helpOf } from "../../../gpu-backend/settings.ts";
import { commandsOf } from "../../../infra/commands.mjs";
import { siteLinks } from "../../../infra/site/build.ts";
import { pages } from "../../../infra/site/pages.ts";
import { edgeSettings, referencePages } from "../../../infra/site/reference.ts";
import { limitTable } from "../../../shared/contracts/limits.ts";
import { errorTable } from "../../../shared/errors.ts";
import { backendMetricNames, edgeMetrics } from "../../support/metric-names.ts";
import { read } from "../../support/project.ts";

const code = "`[a](b.ts)`\n\n```ts\nconst [a](b.ts);\n```\n";
test.each([
  ["links to pages of the site", "[a](../../edge/API.md#errors), [d](#e)", "[a](/reference/api#errors), [d](#e)"],
  ["links to code, of which the text stays", "[b](../site/pages.ts), [c](https://a.dev)", "b, [c](https://a.dev)"],
  ["labels that are code", "[`a.ts`](../site/pages.ts), [`b`](../../edge/API.md)", "`a.ts`, [`b`](/reference/api)"],
  ["what only looks like a link in code", code, code],
])("rewrites %s", (_, markdown, expected) => {
  const pageOf = (linked: string) => (linked === "edge/API.md" ? "reference/api" : undefined);
  expect(siteLinks(markdown, "infra/docs/start.md", pageOf, new Set())).toBe(expected);
});

test("images are collected, and paths and sources of pages are unique", () => {
  const images = new Set<string>();
  const text = siteLinks("![page](infra/docs/page.png)", "README.md", () => undefined, images);
  expect([text, ...images]).toEqual(["![page](/images/page.png)", "infra/docs/page.png"]);
  expect(new Set(pages.map(({ path }) => path)).size).toBe(pages.length);
  expect(new Set(pages.map(({ file }) => file)).size).toBe(pages.length);
});

test("the reference has every error code and limit", async () => {
  const errors = await referencePages.errors();
  for (const [kind, { code, status }] of Object.entries(errorTable)) {
    expect(errors).toContain(`| \`${code ?? kind}\` | ${status} |`);
  }
  const limits = await referencePages.limits();
  for (const [, , bounds] of Object.values(limitTable)) expect(limits).toContain(bounds);
});

test("the reference has every setting of the backend, and every variable, secret and binding that the edge reads", async () => {
  const page = await referencePages.settings();
  for (const [name, { help, range, preset, isSecret }] of helpOf(environmentSchema.shape)) {
    expect(page).toContain(`| \`${name}\`${isSecret ? ", a secret" : ""} | ${preset} | ${help}. May be ${range}. |`);
  }
  const toml = read("wrangler.toml");
  const names = new Set(edgeSettings(toml).map(({ name }) => name));
  const values: Record<string, string> = { BACKEND_URLS: "http://a", TENANT_KEYS: "[]", CELLS_PER_REGION: "1" };
  const get = (_: object, name: string) => {
    names.add(name);
    return values[name];
  };
  const { backendFetch } = readConfig(new Proxy({}, { get }) as Variables);
  // How a backend is reached is chosen at each call, so the test makes one call, to an address where nothing listens.
  await expect(backendFetch("http://127.0.0.1:1", {})).rejects.toThrow();
  expect([...names]).toEqual(expect.arrayContaining(["BACKEND_URLS", "BACKEND_SECRETS", "BACKEND_VPC"]));
  for (const name of names)
    expect(page).toMatch(new RegExp(`^\\| \`${name}\` \\| (\`[^|]*\` \\| |empty \\| )?\\w`, "m"));
  // A variable without a comment is an error.
  expect(() => edgeSettings('[vars]\n# Said.\nA = "1"\nB = "2"\n')).toThrow("B");
});

test("the reference has every metric of backend and edge", async () => {
  const page = await referencePages.metrics();
  expect(page).toMatch(/\| `vllm:time_to_first_token_seconds` \| histogram \| \w/);
  expect(page).not.toMatch(/\| {2}\||undefined/);
  const exported = (await backendMetricNames()).map((name) => name.replace(/_(bucket|sum|count)$/, ""));
  for (const name of exported) expect(page).toContain(`| \`${name}\` |`);
  for (const { name } of await edgeMetrics()) expect(page).toMatch(new RegExp(`^\\| \`${name}\` \\| \\w`, "m"));
});

test("the reference has every command and every option that its code declares", async () => {
  const page = await referencePages.commands();
  const entries = Object.entries<[string, string, ...string[]]>(commandsOf(true));
  for (const [name] of entries) expect(page).toContain(`\n## ${name}\n`);
  const code = [...new Set(entries.map(([, [, file]]) => file))].map(read);
  const declared = code.flatMap((text) => [...text.matchAll(/ption\(\s*["`](--[a-z-]+)/g)].map(([, flag]) => flag));
  const settings = [...helpOf(environmentSchema.shape)].flatMap(([name, { isSecret }]) =>
    isSecret ? [] : flagOf(name),
  );
  expect(new Set(declared).size).toBeGreaterThan(60);
  const shown = new Set([...page.matchAll(/^ +(?:-\w, )?(--[a-z-]+)/gm)].map(([, flag]) => flag));
  expect([...declared, ...settings].filter((flag) => !shown.has(flag))).toEqual([]);
}, 120_000);
