/** Misbehaving clients on plain sockets: they never read, disconnect, send half a request, or send another Host header. */
import http from "node:http";
import { connect, type Socket } from "node:net";
import { keyOf } from "./edge.ts";

export interface PlainAnswer {
  status: number;
  headers: http.IncomingHttpHeaders;
  body: string;
}

/** Sends one request on its own connection, with exactly these headers, `host` included. */
export function plainRequest(
  port: number,
  options: { method?: string; path: string; headers?: Record<string, string>; body?: string; patienceMs?: number },
): Promise<PlainAnswer> {
  const { method = "GET", path, headers = {}, body, patienceMs = 60_000 } = options;
  return new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(patienceMs);
    const request = http.request({ host: "127.0.0.1", port, method, path, headers, agent: false, signal });
    request.on("error", reject);
    request.on("response", async (response) => {
      try {
        let text = "";
        for await (const chunk of response.setEncoding("utf8")) text += chunk;
        resolve({ status: response.statusCode!, headers: response.headers, body: text });
      } catch (error) {
        reject(error);
      }
    });
    request.end(body);
  });
}

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

/** Sends `bytes` and never reads. Resolves when the kernel has accepted them. */
export async function sendAndNeverRead(port: number, bytes: Buffer): Promise<Socket> {
  const socket = connect(port, "127.0.0.1").pause();
  // The server may reset the connection, which the tests expect.
  socket.on("error", () => {});
  await new Promise<void>((resolve) => {
    socket.once("close", resolve);
    socket.write(bytes, () => resolve());
  });
  return socket;
}

/** Sends `bytes` and returns the status of the response; null if there is none within `patienceMs`. */
export function statusFor(port: number, bytes: Buffer, patienceMs: number): Promise<number | null> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    let answer = "";
    const timer = setTimeout(() => end(null), patienceMs);
    const end = (status: number | null) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(status);
    };
    socket.on("error", () => end(null));
    socket.on("close", () => end(null));
    socket.on("data", (chunk) => {
      answer += chunk.toString("latin1");
      const status = /^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1];
      if (status) end(Number(status));
    });
    socket.write(bytes);
  });
}
