/** `npm run audit` against a registry of our own: advisories, accepted ones, and no answer. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, expect, test } from "vitest";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const root = path.join(import.meta.dirname, "../../..");
const id = "GHSA-aaaa-bbbb-cccc";
const advisory = {
  ...{ id: 1, url: `https://github.com/advisories/${id}`, title: "reads too far", severity: "high" },
  ...{ vulnerable_versions: "*", cwe: [], cvss: { score: 0, vectorString: null } },
};
/** null: the registry answers no audits. */
let advisories: Record<string, (typeof advisory)[]> | null = null;
const registry = createServer((request, response) => {
  request.resume();
  if (request.method !== "POST" || !advisories) response.writeHead(405).end();
  else response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(advisories));
});
const folder = temporaryFolder();
beforeAll(async () => {
  await once(registry.listen(0, "127.0.0.1"), "listening");
});
afterAll(() => void registry.close());

async function audit(exceptions: object[]): Promise<{ code: number; stdout: string }> {
  await writeFile(`${folder}/exceptions.json`, JSON.stringify(exceptions));
  const url = `http://127.0.0.1:${(registry.address() as AddressInfo).port}/`;
  const child = spawn(process.execPath, [`${root}/infra/audit.ts`, "--exceptions", `${folder}/exceptions.json`], {
    env: {
      ...process.env,
      npm_config_registry: url,
      npm_config_cache: `${folder}/cache`,
      npm_config_fetch_retries: "0",
    },
    stdio: ["ignore", "pipe", "ignore"],
  });
  const [stdout, [code]] = await Promise.all([text(child.stdout), once(child, "close")]);
  return { code, stdout };
}
const exception = (expires: string) => ({ id, reason: "we never call what it is about", expires });

test("a registry that answers no audits is told as skipped", async () => {
  advisories = null;
  expect(await audit([])).toEqual({ code: 0, stdout: expect.stringMatching(/^skipped: .*405/) });
});

test("an advisory on a shipped package is a fault, unless it is accepted until a later day", async () => {
  advisories = { hono: [advisory] };
  expect(await audit([])).toEqual({ code: 1, stdout: expect.stringContaining(`FAULT  ${id} hono: reads too far\n`) });
  expect(await audit([exception("2999-01-01")])).toMatchObject({ code: 0 });
  expect(await audit([exception("2020-01-01")])).toMatchObject({ code: 1 });
});

test("an advisory on a development dependency is no fault, but an exception without its advisory is", async () => {
  advisories = { vitest: [advisory] };
  expect(await audit([])).toMatchObject({ code: 0 });
  expect(await audit([exception("2999-01-01")])).toMatchObject({ code: 1 });
});
