/** `chameleon keys` against the edge of `npm start`: each change takes effect at once, and no command starts a runtime. */
import { spawn } from "node:child_process";
import { readdir } from "node:fs/promises";
import path from "node:path";
import { afterAll, expect, test } from "vitest";
import { readLocalRun } from "../../infra/local-run.ts";
import { type Outcome, outcomeOf } from "../support/outcome.ts";
import { root } from "../support/project.ts";
import { startStack } from "../support/stack.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const patience = { timeout: 10_000 };
const data = temporaryFolder();
const stack = await startStack({ DATA_DIR: data });
afterAll(() => stack.stop());

/** Runs `chameleon keys` where every attempt to start a process (workerd, wrangler, esbuild) throws. */
const keys = (...args: string[]) => keysWith({ STATE_DIR: stack.state }, ...args);

function keysWith(variables: Record<string, string>, ...args: string[]): Promise<Outcome> {
  const preload = `--import=data:text/javascript,${encodeURIComponent(noProcesses)}`;
  const env = { ...process.env, NODE_OPTIONS: preload, ...variables };
  return outcomeOf(spawn(process.execPath, [`${root}/infra/keys/cli.ts`, ...args], { env }));
}

const noProcesses = `
import child from "node:child_process";
import { syncBuiltinESMExports } from "node:module";
for (const name of Object.keys(child)) if (/^(spawn|exec|fork)/.test(name)) child[name] = () => { throw new Error("no process"); };
syncBuiltinESMExports();`;

const complete = (key: string, model = "gpt2:auto") =>
  stack.post("/v1/completions", { model, prompt: "Once", max_tokens: 1 }, { authorization: `Bearer ${key}` });

test("a key is made, limited, rotated and revoked while the edge runs", async () => {
  const created = await keys("create", "acme", "--scopes", "completions");
  expect(created.code, created.stderr).toBe(0);
  const key = created.stdout.trim();
  expect(key).toMatch(/^sk-chameleon-[\w-]{43}$/);
  const [id] = /[0-9a-f]{16}/.exec(created.stderr)!;
  const first = await complete(key);
  expect(first.status).toBe(200);
  expect(first.headers.get("x-ratelimit-limit-requests")).toBe("600");

  expect((await keys("list", "acme")).stdout).toMatch(new RegExp(`^${id}  acme  completions  made .*  active\n$`));
  const shown = await keys("limits", "acme", "--alias", "gpt-4o-mini=gpt2:c0");
  expect(shown.stdout).toMatch(/aliases +gpt-4o-mini=gpt2:c0\n/);
  await expect.poll(async () => (await complete(key, "gpt-4o-mini")).status, patience).toBe(200);
  expect(await (await complete(key, "gpt-4o-mini")).json()).toMatchObject({ model: "gpt2:c0" });

  await keys("limits", "acme", "--requests-per-minute", "2");
  await expect.poll(async () => (await complete(key)).headers.get("x-ratelimit-limit-requests"), patience).toBe("2");
  const refused = await complete(key);
  expect([refused.status, Number(refused.headers.get("retry-after")) > 0]).toEqual([429, true]);

  const rotated = await keys("rotate", id, "--overlap", "1h", "--json");
  const { key: next } = JSON.parse(rotated.stdout);
  for (const one of [key, next]) expect((await complete(one)).status).toBe(429);
  await keys("revoke", id);
  await expect.poll(async () => (await complete(key)).status, patience).toBe(401);
  expect((await complete(next)).status).toBe(429);

  // The edge refuses the key of a European tenant, because workerd has no jurisdictions.
  const european = await complete((await keys("create", "eu:acme")).stdout.trim());
  expect([european.status, await european.text()]).toEqual([503, expect.stringContaining("jurisdiction eu")]);
});

test("a deleted tenant is gone: keys, limits, use and own adapters, at the edge and on the backend's disk", async () => {
  const key = (await keys("create", "leaver")).stdout.trim();
  const headers = { authorization: `Bearer ${key}` };
  await keys("limits", "leaver", "--requests-per-minute", "9");
  const examples = Array.from({ length: 8 }, (_, i) => `${"the sea and the night ".repeat(8)}${i}`);
  const made = await stack.post("/v1/adapters", { name: "mine", examples }, headers);
  expect(made.status, await made.clone().text()).toBe(201);
  const filesOf = async () => {
    const found = await readdir(path.join(data, "tenants"), { recursive: true, withFileTypes: true });
    return found.filter((one) => one.isFile()).length;
  };
  expect(await filesOf()).toBeGreaterThan(0);

  const deleted = await keys("delete", "leaver", "--yes", "--json");
  expect(deleted.code, deleted.stderr).toBe(0);
  expect(JSON.parse(deleted.stdout)).toMatchObject({
    ...{ keys: 1, tenant: "leaver", adapters: 1 },
    backends: { confirmed: [expect.stringContaining("127.0.0.1")], pending: [] },
  });
  expect(await filesOf()).toBe(0);
  expect((await complete(key)).status).toBe(401);
  expect((await keys("list", "leaver", "--json")).stdout.trim()).toBe("[]");

  // A new tenant of the same name starts with nothing.
  const again = { authorization: `Bearer ${(await keys("create", "leaver")).stdout.trim()}` };
  const get = async (path: string) => (await fetch(stack.edge + path, { headers: again })).json();
  expect(await get("/v1/adapters")).toEqual({ object: "list", data: [], deleting: [] });
  expect(await get("/v1/usage")).toMatchObject({ data: [], limits: { requests_per_minute: 600 } });
});

test("another edge is reached by its URL and CHAMELEON_ADMIN_KEY; a tenant's key is refused there", async () => {
  const withKey = (key: string, ...args: string[]) =>
    keysWith({ STATE_DIR: data, CHAMELEON_ADMIN_KEY: key }, ...args, "--url", stack.edge);
  const made = (await withKey(readLocalRun(stack.state)!.adminKey, "create", "remote")).stdout.trim();
  expect((await complete(made)).status).toBe(200);
  const refusal = { code: 1, stdout: "", stderr: "chameleon keys: The key is not the admin key.\n" };
  for (const key of [made, stack.key]) expect(await withKey(key, "list")).toEqual(refusal);
});

test("the command that the refusal of a page's origin names allows that origin", async () => {
  const key = (await keys("create", "paged")).stdout.trim();
  const origin = "https://app.example.com";
  const models = () => fetch(`${stack.edge}/v1/models`, { headers: { authorization: `Bearer ${key}`, origin } });
  const { error } = (await (await models()).json()) as { error: { message: string } };
  const [, command] = /`chameleon keys (.*) ORIGIN …`/.exec(error.message)!;
  expect((await keys(...command.split(" "), origin)).code).toBe(0);
  await expect.poll(async () => (await models()).headers.get("access-control-allow-origin"), patience).toBe(origin);
});

test("a key is named by its id: the key itself is refused", async () => {
  const stderr = expect.stringMatching(/^chameleon keys: a key is named by its id/);
  expect(await keys("revoke", "sk-chameleon-secret")).toEqual({ code: 2, stdout: "", stderr });
});
