/** The backend as a child process of a local start. Not here: what it serves. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export interface LocalBackend {
  url: string;
  pid: number;
  /** What ended it, as a phrase; settles when it has ended. */
  ended: Promise<string>;
}

const mainFile = fileURLToPath(new URL("../gpu-backend/main.ts", import.meta.url));

/** Starts gpu-backend/main.ts, with `environment` over our own, and waits for its ready line. Throws an Error if it ends without one. */
export async function startBackend(port: number, environment: Record<string, string> = {}): Promise<LocalBackend> {
  const child = spawn(process.execPath, [mainFile], {
    env: { ...process.env, ...environment, BACKEND_PORT: String(port) },
    // The channel says nothing; that it closes tells the backend that this process is gone, however it ended.
    stdio: ["ignore", "pipe", "inherit", "ipc"],
  });
  // At once: it holds nothing that is worth a wait. Half-way through its start it does not listen to the channel yet.
  const kill = () => void child.kill("SIGKILL");
  process.once("exit", kill);
  child.once("exit", () => process.off("exit", kill));
  const ended = once(child, "exit").then(([code, signal]) =>
    signal ? `was ended by ${signal}` : `ended with ${code}`,
  );
  const ready = await Promise.race([readyLine(child), ended]);
  if (typeof ready === "string") throw new Error(`the backend ${ready} before it was ready`);
  return { url: ready.url, pid: child.pid!, ended };
}

async function readyLine(child: ChildProcess): Promise<{ url: string }> {
  const lines = createInterface({ input: child.stdout! });
  const [line] = await once(lines, "line");
  // The backend prints nothing more there; let it never block on a full pipe.
  lines.close();
  child.stdout!.resume();
  return JSON.parse(line);
}
