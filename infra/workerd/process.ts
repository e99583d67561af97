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
  /** The end of what it wrote to stderr, 64 kB; and to stdout, where that was asked for: then 16 MB of both. */
  log(): string;
  stop(): Promise<void>;
}

/**
 * Starts workerd and waits until it listens, which is after the Worker's global scope ran. Throws with its own words.
 * `console.log` goes to stdout, which costs time to read: none of it is kept unless `keepsStdout`.
 */
export async function startWorkerd(configFile: string, keepsStdout = false): Promise<WorkerdProcess> {
  // Outside Cloudflare a binding for Analytics Engine counts as an experiment.
  const args = ["serve", "--experimental", "--control-fd=3", configFile];
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
  const port = await listeningPort(child);
  if (port === null) throw new Error(`workerd ended before it listened: ${written}`);
  return {
    url: `http://127.0.0.1:${port}`,
    pid: child.pid!,
    log: () => written,
    async stop() {
      child.kill("SIGKILL");
      await ended;
    },
  };
}

async function listeningPort(child: ChildProcess): Promise<number | null> {
  for await (const line of createInterface({ input: child.stdio[3] as Readable })) {
    const message = JSON.parse(line) as { event: string; port?: number };
    if (message.event === "listen" && message.port) return message.port;
  }
  return null;
}
