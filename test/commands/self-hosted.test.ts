/** A self-hosted edge that other machines can reach: its keys, its certificate, its clients' addresses, and how it stops. */
import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { Agent, request as send } from "node:https";
import path from "node:path";
import { text } from "node:stream/consumers";
import { beforeAll, expect, onTestFinished, test } from "vitest";
import { readLocalRun } from "../../infra/local-run.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { newKeyOf } from "../support/admin.ts";
import { type FakeBackend, startFakeBackend } from "../support/fake-backend.ts";
import { type Stack, startStack } from "../support/stack.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const localKey = "sk-chameleon-local";
const patience = { timeout: 20_000 };
const stepMs = 40;

const folder = temporaryFolder();
let backend: FakeBackend;
beforeAll(async () => {
  backend = await startFakeBackend({ stepMs });
  return () => backend.stop();
});

/** Starts an edge with a state of its own, or with that of an earlier one. */
async function startEdge(args: string[] = [], state = path.join(folder, randomUUID())): Promise<Stack> {
  const stack = await startStack({ STATE_DIR: state }, ["--backend", backend.url, ...args], "start-edge.ts");
  onTestFinished(() => stack.stop());
  return stack;
}
const everywhere = ["--host", "0.0.0.0"];

async function statusOf(url: string, key: string, headers: Record<string, string> = {}): Promise<number> {
  const response = await fetch(`${url}/v1/models`, { headers: { authorization: `Bearer ${key}`, ...headers } });
  await response.body?.cancel();
  return response.status;
}

test("on every interface the default key is invalid; generated keys are readable by their user only, outlive a start, and serve commands", async () => {
  const edge = await startEdge(everywhere);
  const url = edge.edge.replace("0.0.0.0", "127.0.0.2");
  expect([await statusOf(url, edge.key), await statusOf(url, localKey)]).toEqual([200, 401]);
  const run = readLocalRun(edge.state)!;
  expect([await statusOf(run.edge, run.key), await statusOf(url, run.adminKey)]).toEqual([200, 401]);
  expect(run.key).not.toBe(run.adminKey);
  for (const [name, key] of [
    ["api-key", run.key],
    ["admin-key", run.adminKey],
  ]) {
    const file = path.join(edge.state, name);
    expect([(await stat(file)).mode & 0o777, (await readFile(file, "utf8")).trim()]).toEqual([0o600, key]);
    expect(edge.log()).not.toContain(key);
  }
  expect(await statusOf(url, (await newKeyOf(edge.state, "acme")).key)).toBe(200);

  await edge.kill();
  const again = await startEdge(everywhere, edge.state);
  expect([again.key, readLocalRun(edge.state)!.adminKey]).toEqual([edge.key, run.adminKey]);
  await again.kill();
  const local = await startEdge([], edge.state);
  expect([local.key, await statusOf(local.edge, edge.key)]).toEqual([localKey, 401]);
  expect(readLocalRun(edge.state)!.adminKey).toBe(run.adminKey);
});

test("behind a proxy unknown keys are limited by the client's address; without one a client cannot claim another address", async () => {
  const guesses = async (url: string, address: string) => {
    let last = 0;
    for (let i = 0; i <= limits.keyLookupsPerMinute; i++) {
      last = await statusOf(url, `guess-${i}-${address}`, { "x-forwarded-for": `192.0.2.1, ${address}` });
    }
    return last;
  };
  const proxied = await startEdge(["--trust-proxy"]);
  expect(await statusOf(proxied.edge, localKey)).toBe(401);
  expect(await guesses(proxied.edge, "198.51.100.1")).toBe(429);
  expect(await statusOf(proxied.edge, "guess", { "x-forwarded-for": "198.51.100.1" })).toBe(429);
  expect(await statusOf(proxied.edge, "guess", { "x-forwarded-for": "198.51.100.2" })).toBe(401);
  // A request of the edge's own page, which a browser loads by HTTPS through the proxy.
  const own = { origin: proxied.edge.replace("http:", "https:"), "x-forwarded-proto": "https" };
  expect(await statusOf(proxied.edge, proxied.key, { "x-forwarded-for": "198.51.100.2", ...own })).toBe(200);

  const bare = await startEdge(everywhere);
  expect(await guesses(bare.edge, "198.51.100.1")).toBe(429);
  expect(await statusOf(bare.edge, "guess", { "x-forwarded-for": "198.51.100.2" })).toBe(429);
});

test("HTTPS with a certificate of one's own; SIGTERM lets a stream end, after /readyz has said so", async () => {
  const [key, certificate] = [path.join(folder, "key.pem"), path.join(folder, "cert.pem")];
  const request = "req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2 -subj /CN=localhost";
  const files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate];
  execFileSync("openssl", [...request.split(" "), ...files], { stdio: "ignore" });
  const edge = await startEdge([...everywhere, "--tls-cert", certificate, "--tls-key", key]);
  expect(edge.edge).toMatch(/^https:\/\/0\.0\.0\.0:\d+$/);
  const { edge: local } = readLocalRun(edge.state)!;
  await expect.poll(() => fetch(`${local}/readyz`).then(({ status }) => status), patience).toBe(200);

  // The stream lasts 4 s, which is longer than the shutdown's notice period plus a second.
  const tokens = Math.ceil(4000 / stepMs);
  const body = JSON.stringify({ prompt: "Once", max_tokens: tokens, stream: true });
  const agent = new Agent({ ca: await readFile(certificate), servername: "localhost" });
  const streamed = Promise.withResolvers<string>();
  const sent = send(`${edge.edge.replace("0.0.0.0", "127.0.0.1")}/v1/completions`, {
    method: "POST",
    agent,
    headers: { authorization: `Bearer ${edge.key}`, "content-type": "application/json" },
  });
  sent.on("response", (response) => {
    response.once("readable", () => ended.resolve(edge.stop()));
    text(response).then(streamed.resolve, streamed.reject);
  });
  sent.on("error", streamed.reject);
  const ended = Promise.withResolvers<void>();
  sent.end(body);
  await expect.poll(() => fetch(`${local}/readyz`).then(({ status }) => status), patience).toBe(503);
  expect((await streamed.promise).trimEnd()).toMatch(/"finish_reason":"length".*data: \[DONE\]$/s);
  await ended.promise;
});
