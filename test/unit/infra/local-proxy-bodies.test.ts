import { once } from "node:events";
import { createServer, type RequestListener } from "node:http";
import { connect } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { startLocalProxy } from "../../../infra/local-proxy.ts";
import { limits } from "../../../shared/contracts/limits.ts";

/** Starts a server in wrangler's place and the proxy before it; returns the proxy's origin. */
async function proxyOf(listener: RequestListener): Promise<string> {
  const target = createServer(listener).listen(0, "127.0.0.1");
  await once(target, "listening");
  onTestFinished(() => {
    target.closeAllConnections();
    target.close();
  });
  return startLocalProxy(0, new URL(`http://127.0.0.1:${(target.address() as { port: number }).port}`), []);
}

/** POSTs a chunked body of `bytes` in full, whatever is answered meanwhile, and reads the answer to the connection's end. */
async function posted(origin: string, bytes: number): Promise<{ status: number; text: string; fault: string | null }> {
  const socket = connect(Number(new URL(origin).port), "127.0.0.1");
  let text = "";
  let fault: string | null = null;
  socket.on("data", (data) => {
    text += data;
  });
  socket.on("error", (error) => {
    fault = error.message;
  });
  const closed = once(socket, "close").catch(() => undefined);
  socket.write("POST / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
  const part = 16_384;
  for (let sent = 0; sent < bytes && !socket.destroyed; sent += part) {
    const drained = socket.write(`${part.toString(16)}\r\n${" ".repeat(part)}\r\n`);
    if (!drained) await Promise.race([once(socket, "drain").catch(() => undefined), closed]);
  }
  socket.write("0\r\n\r\n");
  await closed;
  return { status: Number(/^HTTP\/1\.1 (\d{3})/.exec(text)?.[1]), text, fault };
}

test.each([
  [
    "fails after the body",
    (request, response) => void request.resume().on("end", () => response.writeHead(500).end("at async")),
  ],
  ["reads nothing and closes", (request) => void request.once("data", () => request.destroy())],
] satisfies [string, RequestListener][])(
  "a body over the limit is answered by the proxy where wrangler %s",
  async (_, listener) => {
    const answer = await posted(await proxyOf(listener), 6 * limits.bodyBytes);
    expect([answer.status, answer.fault]).toEqual([413, null]);
    expect(answer.text).toMatch(
      new RegExp(`at least \\d+ bytes, the maximum is ${limits.bodyBytes}.*"body_too_large"`),
    );
  },
);

test("an answer that comes before the body has been read reaches the client", async () => {
  const proxy = await proxyOf((request, response) => {
    request.resume();
    response.writeHead(401, { "content-type": "application/json" }).end('{"error":{"code":"invalid_api_key"}}');
  });
  const answer = await posted(proxy, limits.bodyBytes / 2);
  expect([answer.status, answer.fault]).toEqual([401, null]);
  expect(answer.text).toContain("invalid_api_key");
});

test("an internal error of wrangler's is replaced, and its stack trace reaches nobody", async () => {
  const proxy = await proxyOf((request, response) => {
    request.resume();
    response
      .writeHead(500, { "content-type": "text/plain" })
      .end("Error: EPIPE\n    at async MiniflareServer (x.js:1)");
  });
  const answer = await posted(proxy, 0);
  expect(answer.status).toBe(503);
  expect(answer.text).toContain('"code":"backend_unavailable"');
  expect(answer.text).not.toContain("x.js");
});

test("an error of the Worker's own passes", async () => {
  const proxy = await proxyOf((request, response) => {
    request.resume();
    response.writeHead(504, { "content-type": "application/json; charset=utf-8" }).end('{"error":{}}');
  });
  expect(await posted(proxy, 0)).toMatchObject({ status: 504, text: expect.stringContaining('{"error":{}}') });
});
