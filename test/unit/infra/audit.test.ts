/** `npm run audit` against a registry of our own, which knows one advisory. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import { text } from "node:stream/consumers";
import { expect, onTestFinished, test } from "vitest";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const root = path.join(import.meta.dirname, "../../..");
const advisory = {
  ...{ id: 1, url: "https://github.com/advisories/GHSA-aaaa-bbbb-cccc", title: "reads too far", severity: "high" },
  ...{ vulnerable_versions: "*", cwe: [], cvss: { score: 0, vectorString: null } },
};

test.each([
  ["hono", 1, "reads too far"],
  ["vitest", 0, "found 0 vulnerabilities"],
])("an advisory on %s ends with %i", async (name, expected, message) => {
  const registry = createServer((request, response) => {
    request.resume();
    if (request.method !== "POST") response.writeHead(405).end();
    else response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ [name]: [advisory] }));
  });
  onTestFinished(() => void registry.close());
  await once(registry.listen(0, "127.0.0.1"), "listening");
  const url = `http://127.0.0.1:${(registry.address() as AddressInfo).port}/`;
  const child = spawn(process.execPath, [`${root}/infra/audit.ts`], {
    env: {
      ...process.env,
      npm_config_registry: url,
      npm_config_cache: temporaryFolder(),
      npm_config_fetch_retries: "0",
    },
    stdio: ["ignore", "pipe", "ignore"],
  });
  const [stdout, [code]] = await Promise.all([text(child.stdout), once(child, "close")]);
  expect([code, stdout]).toEqual([expected, expect.stringContaining(message)]);
});
