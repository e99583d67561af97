/** `npm run audit` against a registry on loopback: advisories, accepted ones, and no answer. */
import { spawn } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { serve } from "../../support/loopback.ts";
import { type Outcome, outcomeOf } from "../../support/outcome.ts";
import { root } from "../../support/project.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const id = "GHSA-aaaa-bbbb-cccc";
const advisory = {
  ...{ id: 1, url: `https://github.com/advisories/${id}`, title: "reads too far", severity: "high" },
  ...{ vulnerable_versions: "*", cwe: [], cvss: { score: 0, vectorString: null } },
};
/** What the registry answers to an audit; null: it refuses audits. */
let advisories: Record<string, (typeof advisory)[]> | null = null;
const registry = await serve((request, response) => {
  request.resume();
  if (request.method !== "POST" || !advisories) response.writeHead(405).end();
  else response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(advisories));
});
const folder = temporaryFolder();

async function audit(exceptions: object[]): Promise<Outcome> {
  const file = `${folder}/exceptions.json`;
  await writeFile(file, JSON.stringify(exceptions));
  const npm = {
    npm_config_registry: `${registry}/`,
    npm_config_cache: `${folder}/cache`,
    npm_config_fetch_retries: "0",
  };
  const env = { ...process.env, ...npm };
  return outcomeOf(spawn(process.execPath, [`${root}/infra/audit.ts`, "--exceptions", file], { env }));
}
const exception = (expires: string) => ({ id, reason: "we never call what it is about", expires });

test("without an answer of the registry the audit says that it was skipped", async () => {
  advisories = null;
  expect(await audit([])).toMatchObject({ code: 0, stdout: expect.stringMatching(/^skipped: .*405/) });
});

test("an advisory on a shipped package is a fault, unless it is accepted until a later day", async () => {
  advisories = { hono: [advisory] };
  const stdout = expect.stringContaining(`FAULT  ${id} hono: reads too far\n`);
  expect(await audit([])).toMatchObject({ code: 1, stdout });
  expect(await audit([exception("2999-01-01")])).toMatchObject({ code: 0 });
  expect(await audit([exception("2020-01-01")])).toMatchObject({ code: 1 });
});

test("an advisory on a development dependency is no fault, but an exception without its advisory is", async () => {
  advisories = { vitest: [advisory] };
  expect(await audit([])).toMatchObject({ code: 0 });
  expect(await audit([exception("2999-01-01")])).toMatchObject({ code: 1 });
});
