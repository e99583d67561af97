import type { Server } from "node:http";
import type { Socket } from "node:net";
import { serve } from "@hono/node-server";
import { settlesWithin } from "../../shared/settles-within.ts";

/** Limits that also hold for clients without a secret. */
export const connectionLimits = {
  headMs: 10_000,
  /** Timeout for a whole request, such as the upload of an adapter's file. */
  requestMs: 120_000,
  /** Interval at which Node checks `headMs` and `requestMs`. */
  checkMs: 1000,
  /** Maximum connections without a complete head. One more closes the oldest. */
  waiting: 1024,
  open: 8192,
};

export type ConnectionLimits = typeof connectionLimits;

export function listen(
  fetch: Parameters<typeof serve>[0]["fetch"],
  { host, port }: { host: string; port: number },
  limits: ConnectionLimits = connectionLimits,
): Promise<Server> {
  return new Promise((resolve, reject) => {
    const serverOptions = {
      headersTimeout: limits.headMs,
      requestTimeout: limits.requestMs,
      connectionsCheckingInterval: limits.checkMs,
    };
    const server = serve({ fetch, hostname: host, port, serverOptions }, () => resolve(server)) as Server;
    server.maxConnections = limits.open;
    boundWaiting(server, limits.waiting);
    server.once("error", (error: NodeJS.ErrnoException) => {
      const why = error.code === "EADDRINUSE" ? "the port is in use" : error.message;
      reject(new Error(`cannot listen on ${host}:${port}: ${why}`));
    });
  });
}

function boundWaiting(server: Server, max: number): void {
  const waiting = new Set<Socket>();
  server.on("connection", (socket) => {
    waiting.add(socket);
    socket.once("close", () => waiting.delete(socket));
    if (waiting.size <= max) return;
    const [oldest] = waiting;
    waiting.delete(oldest);
    oldest.destroy();
  });
  server.on("request", ({ socket }) => waiting.delete(socket));
}

/** Resolves when every open answer is written, or after `limitMs`. */
export async function close(server: Server, limitMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeIdleConnections();
  await settlesWithin(closed, limitMs);
}
