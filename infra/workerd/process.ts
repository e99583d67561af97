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
  /** What it wrote to stderr so far. */
  log(): string;
  stop(): Promise<void>;
}

/** Starts workerd and waits until it listens, which is after the Worker's global scope ran. Throws with its own words. */
export async function startWorkerd(configFile: string): Promise<WorkerdProcess> {
  // Outside Cloudflare a binding for Analytics Engine counts as an experiment.
  const args = ["serve", "--experimental", "--control-fd=3", configFile];
  const child = spawn(binary, args, { stdio: ["ignore", "ignore", "pipe", "pipe"] });
  const kill = () => void child.kill("SIGKILL");
  process.once("exit", kill);
  let written = "";
  child.stderr!.on("data", (chunk) => {
    written = (written + chunk).slice(-65_536);
  });
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
