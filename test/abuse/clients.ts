/** Misbehaving clients on plain sockets: they never read, disconnect, or send half a request. */
import { connect, type Socket } from "node:net";
import { atEnd } from "../support/at-end.ts";
import { keyOf } from "./edge.ts";

/** The bytes of a POST by `tenant`; `declaredBytes` replaces the length of the body. */
export function postBytes(path: string, tenant: string, body: unknown, declaredBytes: number | null = null): Buffer {
  const text = Buffer.from(typeof body === "string" ? body : JSON.stringify(body));
  const head = [
    `POST ${path} HTTP/1.1`,
    "host: 127.0.0.1",
    `authorization: Bearer ${keyOf(tenant)}`,
    "content-type: application/json",
    `content-length: ${declaredBytes ?? text.byteLength}`,
  ];
  return Buffer.concat([Buffer.from(`${head.join("\r\n")}\r\n\r\n`), text]);
}

/** Sends `bytes` and never reads. Resolves when the kernel has accepted them. The connection is closed when the test ends. */
export async function sendAndNeverRead(port: number, bytes: Buffer): Promise<Socket> {
  const socket = connect(port, "127.0.0.1").pause();
  // The server may reset the connection, which the tests expect.
  socket.on("error", () => {});
  atEnd(() => socket.destroy());
  await new Promise<void>((resolve) => {
    socket.once("close", resolve);
    socket.write(bytes, () => resolve());
  });
  return socket;
}
