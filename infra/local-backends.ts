/** Starts the backends of a local start as child processes. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { availableParallelism } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

interface LocalBackend {
  url: string;
  pid: number;
  /** Resolves to a phrase such as "ended with 1". */
  ended: Promise<string>;
}

const mainFile = fileURLToPath(new URL("../gpu-backend/main.ts", import.meta.url));

/**
 * Starts a backend for each port. Of several backends, one that ends is restarted on its port, unless it was never ready. Throws an Error
 * if a backend's first start fails.
 */
export async function startBackends(
  ports: readonly number[],
  environment: Record<string, string>,
  say: (line: string) => void,
) {
  const dataFolder = process.env.DATA_DIR || ".cache/backend";
  // Without THREADS each backend would use all cores.
  const THREADS = process.env.THREADS || String(Math.max(1, Math.floor(availableParallelism() / ports.length)));
  const start = (port: number, i: number) => {
    // Only one process may write to a data folder.
    const folder: Record<string, string> = ports.length > 1 ? { DATA_DIR: path.join(dataFolder, String(i + 1)) } : {};
    return startBackend({ ...environment, ...folder, THREADS, BACKEND_PORT: String(port) });
  };
  const keepRunning = async (backend: LocalBackend, i: number): Promise<void> => {
    say(`chameleon: the backend ${backend.url} ${await backend.ended}; starting it again`);
    const again = await start(Number(new URL(backend.url).port), i).catch((error: Error) => error);
    if (again instanceof Error) return say(`chameleon: ${backend.url} stays down: ${again.message}`);
    say(`chameleon: the backend ${again.url} is back, pid ${again.pid}`);
    return keepRunning(again, i);
  };
  const started = await Promise.all(ports.map(start));
  /** Resolves when no backend runs and none is to be restarted. */
  const ended =
    started.length === 1
      ? started[0].ended.then((how) => `the backend ${how}`)
      : Promise.all(started.map(keepRunning)).then(() => "no backend is left");
  return { backends: started.map(({ url, pid }) => ({ url, pid })), ended };
}

async function startBackend(environment: Record<string, string>): Promise<LocalBackend> {
  const child = spawn(process.execPath, [mainFile], {
    env: { ...process.env, ...environment },
    // The IPC channel closes when this process ends, so that the backend notices the end.
    stdio: ["ignore", "pipe", "inherit", "ipc"],
  });
  // SIGKILL, because a starting backend does not listen to the channel yet.
  const kill = () => void child.kill("SIGKILL");
  process.once("exit", kill);
  child.once("exit", () => process.off("exit", kill));
  const ended = once(child, "exit").then(([code, signal]) =>
    signal ? `was ended by ${signal}` : `ended with ${code}`,
  );
  const lines = createInterface({ input: child.stdout! });
  const first = await Promise.race([once(lines, "line"), ended]);
  if (typeof first === "string") throw new Error(`the backend ${first} before it was ready`);
  // Unread output would fill the pipe and block the backend.
  lines.close();
  child.stdout!.resume();
  return { url: JSON.parse(first[0]).url, pid: child.pid!, ended };
}
