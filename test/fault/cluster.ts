/** An edge in a bare workerd and two backends, which tests slow, fail, kill and restart. */
import { startBackend } from "../support/backend-process.ts";
import { startEdge } from "../support/stack.ts";
import { startFaultyProxy } from "./faulty-proxy.ts";

const key = "sk-chameleon-fault";
const BACKEND_SECRETS = "fault-0123456789abcdef0123456789abcdef";

export type Cluster = Awaited<ReturnType<typeof startCluster>>;

/** `settings` are added to the backends' environment and to the edge's variables. */
export async function startCluster(settings: Record<string, string> = {}) {
  const start = (backend: number, BACKEND_PORT: string) =>
    startBackend({ ...settings, BACKEND_NAME: `pod-${backend}`, BACKEND_SECRETS, BACKEND_PORT, THREADS: "1" });
  const backends = await Promise.all([0, 1].map((backend) => start(backend, "0")));
  const proxy = await startFaultyProxy(backends[0].url);
  return {
    /** The proxy in front of the first backend. */
    proxy,
    backends,
    /** Starts a new edge without any state. `isProxied`: it reaches the first backend through the proxy. */
    async startEdge(isProxied: boolean) {
      const urls = backends.map(({ url }, backend) => (isProxied && backend === 0 ? proxy.url : url));
      const vars = { ...settings, BACKEND_SECRETS, BACKEND_URLS: urls.join(",") };
      const workerd = await startEdge({ vars, keys: { [key]: "fault" } }, { keepsStdout: true });
      return { ...workerd, key, events: () => eventsOf(workerd.log()) };
    },
    /** Sends a backend a signal and waits for its end. */
    end: async (backend: number, signal: NodeJS.Signals) => void (await backends[backend].stop(signal)),
    /** Starts a backend again on its old port. */
    async restart(backend: number) {
      backends[backend] = await start(backend, new URL(backends[backend].url).port);
    },
    async stop() {
      await proxy.stop();
      await Promise.all(backends.map((backend) => backend.stop()));
    },
  };
}

/** Events of an edge's log that concern backends, such as `resumed`: the number of sequences of each, or of lines without one. */
function eventsOf(log: string): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const [line] of log.matchAll(/\{"event":.*\}/g)) {
    const { event, sequences = 1 } = JSON.parse(line) as { event: string; sequences?: number };
    counts[event] = (counts[event] ?? 0) + sequences;
  }
  return counts;
}
