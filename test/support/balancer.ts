/** A load balancer before several backend processes. A call that names a process goes to it, any other to the next in turn. */
import { once } from "node:events";
import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { nameHeader } from "../../shared/contracts/backend-headers.ts";

/** Where a call names its process: in a header, or in the first part of the path. */
export const balancings = ["header", "URL"] as const;
export type Balancing = (typeof balancings)[number];

export interface Balancer {
  /** The address as the edge is configured with it. */
  url: string;
  stop(): void;
}

/** `targets` never change: a call for a process that is down is broken off. */
export async function startBalancer(
  balancing: Balancing,
  targets: readonly { name: string; port: number }[],
): Promise<Balancer> {
  let next = 0;
  const server = createServer((incoming, outgoing) => {
    const [, first] = incoming.url!.split("/");
    const wanted = balancing === "URL" ? first : incoming.headers[nameHeader];
    const named = targets.find(({ name }) => name === wanted);
    const path = named && balancing === "URL" ? incoming.url!.slice(first.length + 1) : incoming.url!;
    forward(incoming, outgoing, path, (named ?? targets[next++ % targets.length]).port);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    url: balancing === "URL" ? `${url}/{name}` : `${url}#{name}`,
    stop() {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** Forwards a call. When the connection on either side closes, the other is closed, too. */
function forward(incoming: IncomingMessage, outgoing: ServerResponse, path: string, port: number): void {
  const { method, headers } = incoming;
  const upstream = httpRequest({ host: "127.0.0.1", port, path, method, headers, agent: false }, (response) => {
    outgoing.writeHead(response.statusCode!, response.headers);
    response.pipe(outgoing);
    response.once("close", () => response.complete || outgoing.destroy());
  });
  upstream.once("error", () => outgoing.destroy());
  outgoing.once("close", () => upstream.destroy());
  incoming.pipe(upstream);
}
