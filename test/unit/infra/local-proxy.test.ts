import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { connect } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hostsOf, startLocalProxy } from "../../../infra/local-proxy.ts";

let target: Server;
let targetUrl: URL;
beforeAll(async () => {
  target = createServer((_, response) => response.end("passed on")).listen(0, "127.0.0.1");
  await once(target, "listening");
  targetUrl = new URL(`http://127.0.0.1:${(target.address() as { port: number }).port}`);
});
afterAll(() => {
  target.close();
});

/** Sends a request head as it stands and reads the status to the connection's end. */
async function statusOf(origin: string, version: string, lines: readonly string[]): Promise<number> {
  const socket = connect(Number(new URL(origin).port), "127.0.0.1");
  socket.write([`GET /v1/models HTTP/${version}`, ...lines, "connection: close", "", ""].join("\r\n"));
  let text = "";
  socket.on("data", (chunk) => {
    text += chunk;
  });
  await once(socket, "close");
  return Number(/^HTTP\/1\.1 (\d{3})/.exec(text)?.[1]);
}

const foreign = [
  ...["", " ", "a b", "evil_x.example", "evil.example", "evil.example@localhost", "localhost@evil.example"],
  ...["user:password@localhost", "localhost, evil.example", "localhost/", "localhost:80:80", "localhost:x", ":8787"],
  ...[
    "http://localhost",
    "localhost\tevil.example",
    "ëvil.example",
    "[::1",
    "[evil.example]",
    "[]",
    "[::1].evil.example",
  ],
  ...["undefined", "null", ",", "127.0.0.1.evil.example", "localhost.evil.example", "localhost.", "%6cocalhost"],
];
const loopback = ["localhost", "LOCALHOST", "127.0.0.1", "127.0.0.2", "[::1]", "localhost:8787", "[::1]:8787"];

describe.each([
  ["not set", undefined],
  ["empty", ""],
  ["of commas alone", " , ,"],
])("with EDGE_HOSTS %s, the proxy of a local start", (_, edgeHosts) => {
  let proxy: string;
  beforeAll(async () => {
    proxy = await startLocalProxy(0, targetUrl, hostsOf(edgeHosts));
  });

  test.each(foreign)("refuses the Host %j", async (host) => {
    expect(await statusOf(proxy, "1.1", [`host: ${host}`])).toBe(403);
  });

  test("refuses a request without a Host", async () => {
    expect(await statusOf(proxy, "1.0", [])).toBe(403);
    expect(await statusOf(proxy, "1.1", [])).toBe(400);
  });

  test("reads of two Host headers the one that it passes on", async () => {
    expect(await statusOf(proxy, "1.1", ["host: evil.example", "host: localhost"])).toBe(403);
  });

  test.each(loopback)("answers to %s", async (host) => {
    expect(await statusOf(proxy, "1.1", [`host: ${host}`])).toBe(200);
  });
});

test("EDGE_HOSTS names hosts besides loopback ones, whatever the case and the space around them", async () => {
  const proxy = await startLocalProxy(0, targetUrl, hostsOf(" Edge.example ,, other.example"));
  const hosts = ["edge.example", "OTHER.example:80", "localhost", "third.example", "evil_x.example", ""];
  const statuses = await Promise.all(hosts.map((host) => statusOf(proxy, "1.1", [`host: ${host}`])));
  expect(statuses).toEqual([200, 200, 200, 403, 403, 403]);
});
