/** A workerd process of our own: started on a configuration, timed up to its first answer, stopped. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { settlesWithin } from "../../shared/settles-within.ts";

/** In the version that wrangler pins. The package has no types. */
const { default: binary } = createRequire(import.meta.url)("workerd") as { default: string };

export interface WorkerdProcess {
  url: string;
  /** By the names of its sockets (config.ts). */
  ports: Record<string, number>;
  pid: number;
  /** Where a Worker's inspector listens, by its service's name; null unless that was asked for. */
  inspector: ((service: string) => string) | null;
  /** The end of what it wrote to stderr, 64 kB; and to stdout, where that was asked for: then 16 MB of both. */
  log(): string;
  /** What ended it, as a phrase; settles when it has ended. */
  ended: Promise<string>;
  stop(): Promise<void>;
  /** Ends it, and kills it after `limitMs`. Until then it takes no connection, and answers what it has taken. */
  drain(limitMs: number): Promise<void>;
}

export interface WorkerdOptions {
  /** `console.log` goes to stdout, which costs time to read: none of it is kept unless this is set. */
  keepsStdout?: boolean;
  /** `console.log` goes to our stderr. */
  showsStdout?: boolean;
  /** Lets a debugger in, on a loopback port of the system's choice. */
  isInspected?: boolean;
  /** Gets what it writes to stderr, once it listens. */
  stderr?: Writable;
}

/**
 * Starts workerd and waits until it listens, which is after the Worker's global scope ran. It ends with this process, however
 * that ends. Throws an Error with workerd's own words where it does not start.
 */
export async function startWorkerd(
  configFile: string,
  { keepsStdout = false, showsStdout = false, isInspected = false, stderr }: WorkerdOptions = {},
): Promise<WorkerdProcess> {
  const inspector = isInspected ? ["--inspector-addr=127.0.0.1:0"] : [];
  const child = spawn(binary, ["serve", "--control-fd=3", ...inspector, configFile], {
    stdio: ["ignore", keepsStdout ? "pipe" : showsStdout ? 2 : "ignore", "pipe", "pipe"],
    // A terminal's Ctrl-C is for this process.
    detached: true,
  });
  let written = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on("data", (chunk) => {
      written = (written + chunk).slice(keepsStdout ? -16_777_216 : -65_536);
    });
  }
  const disown = killWithParent(child);
  const ended = once(child, "close").then(([code, signal]) => {
    disown();
    return signal ? `was ended by ${signal}` : `ended with ${code}`;
  });
  const { ports, inspectorPort } = await listeningPorts(child);
  if (!ports.http) {
    await ended;
    throw new Error(`workerd ended before it listened: ${written.trim()}`);
  }
  if (stderr) {
    stderr.write(written);
    child.stderr!.on("data", (chunk) => stderr.write(chunk));
  }
  const stop = async () => {
    child.kill("SIGKILL");
    await ended;
  };
  return {
    url: `http://127.0.0.1:${ports.http}`,
    ports,
    pid: child.pid!,
    inspector: inspectorPort === null ? null : (service) => `ws://127.0.0.1:${inspectorPort}/${service}`,
    log: () => written,
    ended,
    stop,
    async drain(limitMs) {
      child.kill("SIGTERM");
      await settlesWithin(ended, limitMs);
      await stop();
    },
  };
}

/**
 * Kills the child when this process ends, even by SIGKILL: a shell waits for the end of a pipe from this process. Returns a function
 * that cancels this.
 */
function killWithParent(child: ChildProcess): () => void {
  const kill = () => void child.kill("SIGKILL");
  process.once("exit", kill);
  const watch = spawn("sh", ["-c", 'read end; kill -9 "$0"', String(child.pid)], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  // Without a shell, as on Windows, only the exit hook remains.
  watch.on("error", () => undefined);
  watch.unref();
  (watch.stdin as unknown as { unref(): void }).unref();
  return () => {
    process.off("exit", kill);
    watch.kill("SIGKILL");
  };
}

/** Reads the ports that workerd reports, by socket, up to that of the socket "http", the last one; the inspector's comes before. */
async function listeningPorts(
  child: ChildProcess,
): Promise<{ ports: Record<string, number>; inspectorPort: number | null }> {
  let inspectorPort: number | null = null;
  const ports: Record<string, number> = {};
  for await (const line of createInterface({ input: child.stdio[3] as Readable })) {
    const { event, socket, port } = JSON.parse(line) as { event: string; socket?: string; port?: number };
    if (event === "listen-inspector") inspectorPort = port ?? null;
    if (event === "listen" && socket && port) ports[socket] = port;
    if (ports.http) break;
  }
  return { ports, inspectorPort };
}
