/** Starts and stops workerd as a child process. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { settlesWithin } from "../../shared/settles-within.ts";

/** The package workerd has no types. */
const { default: binary } = createRequire(import.meta.url)("workerd") as { default: string };

export interface WorkerdProcess {
  url: string;
  /** Port by name of the socket in config.ts. */
  ports: Record<string, number>;
  pid: number;
  /** Returns the inspector's address for a service of config.ts. null without `isInspected`. */
  inspector: ((service: string) => string) | null;
  /** Returns the last 64 KiB of workerd's stderr or, with `keepsStdout`, the last 16 MiB of stdout and stderr. */
  log(): string;
  /** Resolves to a phrase such as "ended with 1". */
  ended: Promise<string>;
  stop(): Promise<void>;
  /** Refuses connections, waits at most `limitMs` for running requests, then ends the process. */
  drain(limitMs: number): Promise<void>;
}

export interface WorkerdOptions {
  /** Keeps the Worker's `console.log` lines for `log()`. */
  keepsStdout?: boolean;
  /** Copies the Worker's `console.log` lines to the stderr of this process. */
  showsStdout?: boolean;
  /** Opens the inspector on a loopback port. */
  isInspected?: boolean;
  /** Receives workerd's stderr once workerd listens. */
  stderr?: Writable;
}

/**
 * Resolves when workerd listens and the Worker's global scope has run. workerd is killed when this process ends, even by SIGKILL. Throws an
 * Error with workerd's message.
 */
export async function startWorkerd(
  configFile: string,
  { keepsStdout = false, showsStdout = false, isInspected = false, stderr }: WorkerdOptions = {},
): Promise<WorkerdProcess> {
  const inspector = isInspected ? ["--inspector-addr=127.0.0.1:0"] : [];
  const child = spawn(binary, ["serve", "--control-fd=3", ...inspector, configFile], {
    stdio: ["ignore", keepsStdout ? "pipe" : showsStdout ? 2 : "ignore", "pipe", "pipe"],
    // workerd has a process group of its own, so that Ctrl-C in a terminal reaches this process only.
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

/** Kills the child when this process ends; after SIGKILL by a shell whose stdin closes. Returns a function that cancels this. */
function killWithParent(child: ChildProcess): () => void {
  const kill = () => void child.kill("SIGKILL");
  process.once("exit", kill);
  const watch = spawn("sh", ["-c", 'read end; kill -9 "$0"', String(child.pid)], {
    stdio: ["pipe", "ignore", "ignore"],
    detached: true,
  });
  // Windows has no `sh`, so only the exit hook kills the child there.
  watch.on("error", () => undefined);
  watch.unref();
  (watch.stdin as unknown as { unref(): void }).unref();
  return () => {
    process.off("exit", kill);
    watch.kill("SIGKILL");
  };
}

/** Waits for workerd's last socket, "http". If the port of "http" is missing in the result, workerd has ended. */
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
