/** The backends of a local start, kept running. Not here: one backend's process (local-backend.ts). */
import { availableParallelism } from "node:os";
import { type LocalBackend, startBackend } from "./local-backend.ts";

export interface LocalBackends {
  backends: { url: string; pid: number }[];
  /** Settles, with a phrase, once there is no backend left and none comes back. */
  ended: Promise<string>;
}

/**
 * Starts as many backends as there are ports; 0 lets the system choose. One alone ends with whatever ends it: whoever
 * works on it wants to know. Of several each is started again on its port, as a cluster would do, unless it ends before
 * it is ready. Throws an Error if one cannot be started at first.
 */
export async function startBackends(
  ports: readonly number[],
  environment: Record<string, string>,
  say: (line: string) => void,
): Promise<LocalBackends> {
  // By themselves each would take all cores.
  const threads = process.env.THREADS || String(Math.max(1, Math.floor(availableParallelism() / ports.length)));
  const start = (port: number) => startBackend(port, { ...environment, THREADS: threads });
  const started = await Promise.all(ports.map(start));
  const restart = ({ url }: LocalBackend) => start(Number(new URL(url).port));
  const ended =
    started.length === 1
      ? started[0].ended.then((how) => `the backend ${how}`)
      : Promise.all(started.map((backend) => keep(backend, restart, say))).then(() => "no backend is left");
  return { backends: started.map(({ url, pid }) => ({ url, pid })), ended };
}

/** Resolves when a backend could not be started again. */
async function keep(
  first: LocalBackend,
  restart: (backend: LocalBackend) => Promise<LocalBackend>,
  say: (line: string) => void,
): Promise<void> {
  let backend = first;
  for (;;) {
    say(`chameleon: the backend ${backend.url} ${await backend.ended}; starting it again`);
    try {
      backend = await restart(backend);
    } catch (error) {
      say(`chameleon: ${backend.url} stays down: ${(error as Error).message}`);
      return;
    }
    say(`chameleon: the backend ${backend.url} is back, pid ${backend.pid}`);
  }
}
