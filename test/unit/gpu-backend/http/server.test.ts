import type { Server } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { afterEach, expect, test } from "vitest";
import { type ConnectionLimits, close, connectionLimits, listen } from "../../../../gpu-backend/http/server.ts";

let server: Server | undefined;
let sockets: Socket[] = [];
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  sockets = [];
  if (server) await close(server, 0);
  server = undefined;
});

async function start(limits: Partial<ConnectionLimits>) {
  const all = { ...connectionLimits, ...limits };
  server = await listen(async (request) => new Response(await request.text()), { host: "127.0.0.1", port: 0 }, all);
  const { port } = server.address() as AddressInfo;
  const send = async (text: string) => {
    const socket = connect(port, "127.0.0.1");
    sockets.push(socket);
    let answer = "";
    socket.on("data", (chunk) => {
      answer += chunk;
    });
    // The server may close the connection by a reset.
    socket.on("error", () => undefined);
    const ended = new Promise<string>((resolve) => socket.once("close", () => resolve(answer)));
    await new Promise<void>((resolve) => socket.write(text, () => resolve()));
    return { socket, ended };
  };
  const answered = async () => (await fetch(`http://127.0.0.1:${port}`, { method: "POST", body: "hello" })).text();
  return { send, answered };
}

const head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n";

test.each([
  ["a head that is never complete", head, { headMs: 50, checkMs: 10 }],
  ["a body that is never complete", `${head}\r\nhalf`, { headMs: 50, requestMs: 50, checkMs: 10 }],
])("%s is answered 408 and closed; others are answered", async (_, text, limits) => {
  const { send, answered } = await start(limits);
  const { ended } = await send(text);
  expect(await answered()).toBe("hello");
  expect(await ended).toMatch(/^HTTP\/1\.1 408 /);
});

test("of more incomplete heads than may wait the oldest are closed; whole requests are answered", async () => {
  const waiting = 8;
  const { send, answered } = await start({ waiting, headMs: 60_000 });
  const slow: Awaited<ReturnType<typeof send>>[] = [];
  for (let i = 0; i < 4 * waiting; i++) {
    slow.push(await send(head));
    expect(await answered()).toBe("hello");
  }
  await Promise.all(slow.slice(0, 2 * waiting).map(({ ended }) => ended));
  expect(slow.filter(({ socket }) => !socket.closed).length).toBeLessThanOrEqual(waiting);
});

test("a port that is in use is named", async () => {
  await start({});
  const { port } = server!.address() as AddressInfo;
  await expect(listen(() => new Response(), { host: "127.0.0.1", port })).rejects.toThrow(
    `127.0.0.1:${port}: the port`,
  );
});
