/** A proxy on loopback in front of a backend, which can fail or slow its batches. */
import { once } from "node:events";
import http from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/** `failing`: batches are answered 500. `slow`: headers and chunks are delayed. `torn`: answers end in the middle of their first chunk. */
export type Trouble = { kind: "none" } | { kind: "failing" } | { kind: "slow"; chunkMs: number } | { kind: "torn" };

export interface FaultyProxy {
  url: string;
  trouble: Trouble;
  stop(): Promise<void>;
}

export async function startFaultyProxy(target: string): Promise<FaultyProxy> {
  const server = http.createServer((request, response) => {
    const { trouble } = proxy;
    if (trouble.kind === "failing" && request.url === "/v1/batches") {
      request.resume();
      response.writeHead(500, { "content-type": "application/json" });
      response.end(
        JSON.stringify({ error: { message: "out of order", type: "server_error", param: null, code: null } }),
      );
      return;
    }
    const { method, headers } = request;
    const upstream = http.request(target + request.url, { method, headers }, async (answer) => {
      const pauseMs = trouble.kind === "slow" ? trouble.chunkMs : 0;
      try {
        if (pauseMs > 0) await sleep(pauseMs);
        response.writeHead(answer.statusCode!, answer.headers);
        for await (const chunk of answer) {
          if (pauseMs > 0) await sleep(pauseMs);
          if (trouble.kind === "torn" && request.url === "/v1/batches") {
            response.end(chunk.subarray(0, chunk.length / 2));
            upstream.destroy();
            return;
          }
          if (!response.write(chunk)) await once(response, "drain");
        }
        response.end();
      } catch {
        response.destroy();
      }
    });
    upstream.on("error", () => response.destroy());
    // If the caller disconnects, the call to the backend is ended, too.
    response.on("close", () => upstream.destroy());
    request.pipe(upstream);
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const proxy: FaultyProxy = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    trouble: { kind: "none" },
    async stop() {
      server.close();
      server.closeAllConnections();
      await once(server, "close");
    },
  };
  return proxy;
}
