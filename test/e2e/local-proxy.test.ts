/** `npm start` as an attacker's page or a careless proxy meets it: foreign hosts, wrangler's own paths and its control headers. */
import { once } from "node:events";
import { connect } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Stack, startStack } from "../support/stack.ts";

let stack: Stack;
beforeAll(async () => {
  stack = await startStack({ EDGE_HOSTS: "edge.example, other.example" });
});
afterAll(() => stack?.stop());

/** Sends a request head as it stands, to the edge's port, and reads the answer to the connection's end. */
async function raw(
  target: string,
  headers: Record<string, string>,
  method = "GET",
): Promise<{ status: number; text: string }> {
  const socket = connect(Number(new URL(stack.edge).port), "127.0.0.1");
  const lines = Object.entries({ ...headers, connection: "close" }).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(`${method} ${target} HTTP/1.1\r\n${lines.join("")}\r\n`);
  let text = "";
  socket.on("data", (chunk) => {
    text += chunk;
  });
  await once(socket, "close");
  return { status: Number(/^HTTP\/1\.1 (\d{3})/.exec(text)?.[1]), text };
}

const authorization = () => `Bearer ${stack.key}`;
const port = () => new URL(stack.edge).port;

describe("the Host header", () => {
  test.each([
    ["127.0.0.1", 200],
    ["localhost", 200],
    ["[::1]", 200],
    ["127.0.0.2", 200],
    ["edge.example", 200],
    ["OTHER.example", 200],
    ["evil.example", 403],
    ["127.0.0.1.evil.example", 403],
    ["127.evil.example", 403],
    ["localhost.evil.example", 403],
    ["edge.example.evil.example", 403],
    ["a b", 403],
    ["evil.example@localhost", 403],
  ])("%s: %d", async (name, status) => {
    const host = `${name}:${port()}`;
    const answer = await raw("/v1/models", { host, authorization: authorization() });
    expect([name, answer.status]).toEqual([name, status]);
    if (status !== 403) return;
    expect(answer.text).toContain('"code":"insufficient_permissions"');
    expect(answer.text).not.toContain("gpt2");
  });

  test("of a foreign name is refused whatever the page's origin and whatever wrangler's headers say", async () => {
    const evil = `evil.example:${port()}`;
    const local = `http://127.0.0.1:${port()}/v1/models`;
    const attempts: Record<string, string>[] = [
      { origin: `http://${evil}` },
      { "MF-Original-URL": local },
      { "x-forwarded-host": `127.0.0.1:${port()}`, "x-forwarded-proto": "http" },
    ];
    for (const attempt of attempts) {
      const answer = await raw("/v1/models", { host: evil, authorization: authorization(), ...attempt });
      expect([attempt, answer.status]).toEqual([attempt, 403]);
    }
    const target = await raw(local, { host: evil, authorization: authorization() });
    expect(target.status).toBe(403);
  });

  test("of ours does not let a foreign page in, whatever wrangler's headers say", async () => {
    const ask = (headers: Record<string, string>) =>
      fetch(`${stack.edge}/v1/models`, { headers: { authorization: authorization(), ...headers } });
    const foreign = { origin: "http://evil.example" };
    expect((await ask(foreign)).status).toBe(403);
    expect((await ask({ ...foreign, "MF-Original-URL": "http://evil.example/v1/models" })).status).toBe(403);
    expect((await ask({ origin: stack.edge })).status).toBe(200);
  });
});

describe("wrangler's own paths", () => {
  const paths = [
    ...[
      "/cdn-cgi",
      "/cdn-cgi/",
      "/cdn-cgi/explorer",
      "/cdn-cgi/local/explorer",
      "/cdn-cgi/explorer/api/storage/kv/namespaces",
    ],
    ...["/cdn-cgi/handler/scheduled", "/cdn-cgi/mf/scheduled", "/cdn-cgi/local/scheduled", "/cdn-cgi/local/email"],
    ...["/cdn-cgi/local/platform-proxy", "/cdn-cgi/local/r2/public", "/cdn-cgi/local/r2/s3", "/cdn-cgi/live-reload"],
    ...["/cdn-cgi/ProxyWorker/play", "/cdn-cgi/mf/stream", "/__cf_local/stream", "/__cf_local/imageupload"],
    ...[
      "/./cdn-cgi/explorer",
      "/v1/../cdn-cgi/explorer",
      "/%2e/cdn-cgi/explorer",
      "\\cdn-cgi\\explorer",
      "/\\cdn-cgi/explorer",
    ],
  ];
  test.each(paths)("%s is not answered", async (path) => {
    for (const method of ["GET", "POST", "PUT", "OPTIONS"]) {
      const { status, text } = await raw(path, { host: `127.0.0.1:${port()}` }, method);
      expect([method, status === 404 || status === 400]).toEqual([method, true]);
      expect(text).not.toMatch(/<html|exception|"success"/i);
    }
  });

  test("nor by a header that names one, nor as a web socket", async () => {
    const host = `127.0.0.1:${port()}`;
    for (const path of ["/cdn-cgi/local/scheduled", "/cdn-cgi/local/email", "/cdn-cgi/local/explorer"]) {
      const { status, text } = await raw("/healthz", { host, "MF-Original-URL": `http://${host}${path}` });
      expect([path, status, text]).toEqual([path, 200, expect.stringContaining('{"status":"ok"')]);
    }
    const socket = await raw("/cdn-cgi/live-reload", {
      ...{ host, upgrade: "websocket", "sec-websocket-version": "13", "sec-websocket-key": "SGVsbG8sIHdvcmxkIQ==" },
      "sec-websocket-protocol": "WRANGLER_PROXYWORKER_LIVE_RELOAD_PROTOCOL",
    });
    expect(socket.status).toBe(404);
  });

  test("a forged key of the explorer's opens nothing, as none is written", async () => {
    const url = `${stack.edge}/cdn-cgi/explorer/api/storage/kv/namespaces/TENANTS/values/key:0`;
    expect((await fetch(url, { method: "PUT", body: "{}" })).status).toBe(404);
    expect((await fetch(url)).status).toBe(404);
  });
});

describe("passes on", () => {
  test("streams as they come, headers before the first token, and an early end", async () => {
    const body = { prompt: "Once", max_tokens: 400, stream: true };
    const response = await stack.post("/v1/completions", body);
    expect([response.status, response.headers.get("content-type")]).toEqual([200, "text/event-stream; charset=utf-8"]);
    const reader = response.body!.getReader();
    expect((await reader.read()).done).toBe(false);
    await reader.cancel();
    const whole = await (await stack.post("/v1/completions", { ...body, max_tokens: 8 })).text();
    expect(whole).toMatch(/data: \[DONE\]\n\n$/);
  });

  test("bodies with and without a declared length, and refusals before a body is read", async () => {
    const text = JSON.stringify({ prompt: "Once", max_tokens: 1 });
    const headers = { authorization: authorization(), "content-type": "application/json" };
    const stream = new Blob([text]).stream();
    const chunked = await fetch(`${stack.edge}/v1/completions`, {
      method: "POST",
      headers,
      body: stream,
      duplex: "half",
    } as RequestInit);
    expect(chunked.status).toBe(200);
    expect((await stack.post("/v1/completions", " ".repeat(3_000_000))).status).toBe(413);
    const wrongKey = { ...headers, authorization: "Bearer wrong" };
    expect((await stack.post("/v1/completions", " ".repeat(3_000_000), wrongKey)).status).toBe(401);
    expect((await stack.post("/v1/completions", text)).status).toBe(200);
  });

  test("what is too long for the Worker's limits to the Worker, which answers", async () => {
    const long = await fetch(`${stack.edge}/healthz`, { headers: { long: "x".repeat(20_000) } });
    expect([long.status, await long.text()]).toEqual([431, expect.stringContaining("headers_too_large")]);
  });
});
