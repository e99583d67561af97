/** A workerd process of our own: started on a configuration, timed up to its first answer, stopped. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";

/** The package has no types. */
const { default: binary } = createRequire(import.meta.url)("workerd") as { default: string };

export interface WorkerdProcess {
  url: string;
  pid: number;
  /** Where a Worker's inspector listens, by its service's name; null unless that was asked for. */
  inspector: ((service: string) => string) | null;
  /** The end of what it wrote to stderr, 64 kB; and to stdout, where that was asked for: then 16 MB of both. */
  log(): string;
  stop(): Promise<void>;
}

export interface WorkerdOptions {
  /** `console.log` goes to stdout, which costs time to read: none of it is kept unless this is set. */
  keepsStdout?: boolean;
  /** Lets a debugger in, on a loopback port of the system's choice. */
  isInspected?: boolean;
}

/** Starts workerd and waits until it listens, which is after the Worker's global scope ran. Throws with its own words. */
export async function startWorkerd(
  configFile: string,
  { keepsStdout = false, isInspected = false }: WorkerdOptions = {},
): Promise<WorkerdProcess> {
  // Outside Cloudflare a binding for Analytics Engine counts as an experiment.
  const inspector = isInspected ? ["--inspector-addr=127.0.0.1:0"] : [];
  const args = ["serve", "--experimental", "--control-fd=3", ...inspector, configFile];
  const child = spawn(binary, args, { stdio: ["ignore", keepsStdout ? "pipe" : "ignore", "pipe", "pipe"] });
  const kill = () => void child.kill("SIGKILL");
  process.once("exit", kill);
  let written = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on("data", (chunk) => {
      written = (written + chunk).slice(keepsStdout ? -16_777_216 : -65_536);
    });
  }
  const ended = once(child, "close").then(() => process.off("exit", kill));
  const { port, inspectorPort } = await listeningPorts(child);
  if (port === null) throw new Error(`workerd ended before it listened: ${written}`);
  return {
    url: `http://127.0.0.1:${port}`,
    pid: child.pid!,
    inspector: inspectorPort === null ? null : (service) => `ws://127.0.0.1:${inspectorPort}/${service}`,
    log: () => written,
    async stop() {
      child.kill("SIGKILL");
      await ended;
    },
  };
}

/** The inspector is there first. */
async function listeningPorts(child: ChildProcess): Promise<{ port: number | null; inspectorPort: number | null }> {
  let inspectorPort: number | null = null;
  for await (const line of createInterface({ input: child.stdio[3] as Readable })) {
    const message = JSON.parse(line) as { event: string; port?: number };
    if (message.event === "listen-inspector") inspectorPort = message.port ?? null;
    if (message.event === "listen" && message.port) return { port: message.port, inspectorPort };
  }
  return { port: null, inspectorPort };
}
