/**
 * Attack: a web page in a browser on the same machine calls the edge of `npm start`: the development server's own routes, and
 * host names that resolve to this machine (DNS rebinding). Judged by: the statuses, and that no key was created.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { keyIdOf, scopes } from "../../shared/contracts/tenants.ts";
import { type Stack, startStack } from "../support/stack.ts";
import { plainRequest } from "./clients.ts";

const keysCli = fileURLToPath(new URL("../../infra/keys/cli.ts", import.meta.url));
let stack: Stack;
let port: number;
let host: string;
beforeAll(async () => {
  stack = await startStack({ THREADS: "1" });
  const url = new URL(stack.edge);
  [port, host] = [Number(url.port), url.host];
});
afterAll(() => stack?.stop());

const refused = [400, 403, 404, 421];

test("every path below /cdn-cgi is refused", async () => {
  const kv = "/cdn-cgi/explorer/api/storage/kv/namespaces/TENANTS";
  const cases: [method: string, path: string, body?: string][] = [
    ["GET", "/cdn-cgi"],
    ["GET", "/cdn-cgi/"],
    ["GET", "/cdn-cgi/explorer"],
    ["GET", "/cdn-cgi/explorer/"],
    ["GET", "/cdn-cgi/explorer/api"],
    ["GET", "/cdn-cgi/explorer/api/storage/kv/namespaces"],
    ["GET", `${kv}/keys`],
    ["GET", `${kv}/values/key:0`],
    ["PUT", `${kv}/values/key:0`, "{}"],
    ["GET", "/cdn-cgi/explorer/api/d1/database"],
    ["GET", "/cdn-cgi/explorer/api/workers/durable_objects/namespaces"],
    ["GET", "/cdn-cgi/explorer/api/r2/buckets"],
    ["GET", "/cdn-cgi/explorer/api/r2/buckets/chameleon-artifacts/objects"],
    ["GET", "/cdn-cgi/explorer/api/local/workers"],
    ["GET", "//cdn-cgi/explorer/api/storage/kv/namespaces"],
    ["GET", "/cdn-cgi/%65xplorer/api/storage/kv/namespaces"],
    ["GET", "/cdn-cgi/handler/scheduled"],
    ["POST", "/cdn-cgi/handler/email", "x"],
    ["GET", "/cdn-cgi/mf/scheduled"],
    ["GET", "/cdn-cgi/mf/stream"],
    ["POST", "/cdn-cgi/ProxyWorker/pause", "{}"],
    ["GET", "/cdn-cgi/platform-proxy"],
    ["GET", "/__scheduled"],
  ];
  const found = await Promise.all(
    cases.map(async ([method, path, body]) => {
      const { status, body: text } = await plainRequest(port, {
        method,
        path,
        body,
        headers: { host },
        patienceMs: 10_000,
      });
      return { method, path, status, text: text.slice(0, 80) };
    }),
  );
  expect(found.filter(({ status }) => status !== 403 && status !== 404)).toEqual([]);
});

test("no key can be forged through the explorer", async () => {
  const key = "sk-forged";
  const hash = createHash("sha256").update(key).digest("hex");
  const createdAt = "2026-11-01T00:00:00.000Z";
  const record = { hash, tenant: "forged", scopes, createdAt, expiresAt: null, revokedAt: null };
  for (const namespace of ["TENANTS", "tenants"]) {
    await plainRequest(port, {
      method: "PUT",
      path: `/cdn-cgi/explorer/api/storage/kv/namespaces/${namespace}/values/key:${keyIdOf(hash)}`,
      headers: { host, origin: "http://localhost:3000", "content-type": "text/plain" },
      body: JSON.stringify(record),
    });
  }
  const response = await fetch(`${stack.edge}/v1/models`, { headers: { authorization: `Bearer ${key}` } });
  expect(response.status).toBe(401);
});

test("a foreign Host is refused, with and without a matching Origin, and so is a page of another port", async () => {
  const key = `Bearer ${stack.key}`;
  const foreign = [
    ...["evil.example", `evil.example:${port}`, "127.0.0.1.evil.example", `localhost.evil.example:${port}`],
    // No host names at all.
    ...["a b", `evil_x.example:${port}`, `evil.example@localhost:${port}`, `localhost/:${port}`],
  ];
  const cases = foreign.flatMap((name): Record<string, string>[] => [
    { host: name },
    { host: name, origin: `http://${name}` },
    { host: name, origin: `http://${host}` },
  ]);
  const found = await Promise.all(
    [...cases, { host, origin: "http://localhost:3000" }, { host, origin: "http://evil.example" }].map(
      async (headers) => ({
        headers,
        status: (await plainRequest(port, { path: "/v1/models", headers: { authorization: key, ...headers } })).status,
      }),
    ),
  );
  expect(found.filter(({ status }) => !refused.includes(status))).toEqual([]);
  for (const name of foreign) {
    const page = await plainRequest(port, { path: "/", headers: { host: name } });
    expect([name, refused.includes(page.status)]).toEqual([name, true]);
  }
});

test("loopback names and their own origin are accepted", async () => {
  const key = `Bearer ${stack.key}`;
  for (const name of [host, `localhost:${port}`]) {
    for (const origin of [undefined, `http://${name}`]) {
      const headers = { authorization: key, host: name, ...(origin && { origin }) };
      const { status, body } = await plainRequest(port, { path: "/v1/models", headers });
      expect(status, `${name} ${origin}: ${body}`).toBe(200);
    }
  }
});

test("a key made while the edge runs is accepted", async () => {
  const env = { ...process.env, STATE_DIR: stack.state };
  const { stdout } = await promisify(execFile)(process.execPath, [keysCli, "create", "second"], { env });
  const response = await fetch(`${stack.edge}/v1/models`, { headers: { authorization: `Bearer ${stdout.trim()}` } });
  expect(response.status, await response.text()).toBe(200);
});
