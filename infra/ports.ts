import { once } from "node:events";
import { createServer, type Server } from "node:net";

export const localHost = "127.0.0.1";

/** 0 lets the system choose a port. Throws an Error that names the variable and its value. */
export function readPort(env: NodeJS.ProcessEnv, name: string, fallback: number): number {
  const text = env[name] ?? "";
  if (text === "") return fallback;
  const port = parsePort(text);
  if (port === null) throw new Error(`${name} is "${text}"; it must be a port from 0 to 65535`);
  return port;
}

export function parsePort(text: string): number | null {
  return /^\d{1,5}$/.test(text) && Number(text) <= 65535 ? Number(text) : null;
}

/** Throws an Error that names a port in use, and the variable that sets the port. */
export async function assertPortsFree(
  ports: readonly [variable: string, port: number, host?: string][],
): Promise<void> {
  const held: Server[] = [];
  try {
    for (const [name, port, host = localHost] of ports) {
      const server = createServer();
      try {
        await once(server.listen(port, host), "listening");
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (code === "EADDRINUSE") throw new Error(`port ${port} is in use; set ${name} to another`);
        throw new Error(`port ${port} of ${host} cannot be used (${code}); set ${name} to another`);
      }
      held.push(server);
    }
  } finally {
    await Promise.all(held.map((server) => once(server.close(), "close")));
  }
}
