/** An edge in a bare workerd and two backends, which tests slow, fail, kill and restart. */
import { type Backend, startBackend } from "../support/backend-process.ts";
import { startEdge } from "../support/stack.ts";
import { type FaultyProxy, startFaultyProxy } from "./faulty-proxy.ts";

const key = "sk-chameleon-fault";
const BACKEND_SECRETS = "fault-0123456789abcdef0123456789abcdef";

export interface Edge {
  url: string;
  key: string;
  /** The last 64 kB of its output. */
  log(): string;
  /** Events of the edge's log that concern backends, such as `resumed`: the number of sequences of each. */
  events(): Record<string, number>;
  stop(): Promise<void>;
}

export interface Cluster {
  /** The proxy in front of the first backend. */
  proxy: FaultyProxy;
  backends: Backend[];
  /** Starts a new edge without any state. `isProxied`: it reaches the first backend through the proxy. */
  startEdge(isProxied: boolean): Promise<Edge>;
  /** Sends a backend a signal and waits for its end. */
  end(backend: number, signal: NodeJS.Signals): Promise<void>;
  /** Starts a backend again on its old port. */
  restart(backend: number): Promise<void>;
  stop(): Promise<void>;
}

/** `settings` are added to the backends' environment and to the edge's variables. */
export async function startCluster(settings: Record<string, string> = {}): Promise<Cluster> {
  const start = (backend: number, BACKEND_PORT: string) =>
    startBackend({
      ...settings,
      BACKEND_NAME: `pod-${backend}`,
      BACKEND_SECRETS,
      BACKEND_PORT,
      THREADS: "1",
    });
  const backends = await Promise.all([0, 1].map((backend) => start(backend, "0")));
  const proxy = await startFaultyProxy(backends[0].url);
  const cluster: Cluster = {
    proxy,
    backends,
    async startEdge(isProxied) {
      const urls = backends.map(({ url }, backend) => (isProxied && backend === 0 ? proxy.url : url));
      const vars = { ...settings, BACKEND_SECRETS, BACKEND_URLS: urls.join(",") };
      const workerd = await startEdge({ vars, keys: { [key]: "fault" } }, { keepsStdout: true });
      return {
        url: workerd.url,
        key,
        log: workerd.log,
        events: () => eventsOf(workerd.log()),
        stop: () => workerd.stop(),
      };
    },
    async end(backend, signal) {
      backends[backend].child.kill(signal);
      await backends[backend].exited;
    },
    async restart(backend) {
      backends[backend] = await start(backend, new URL(backends[backend].url).port);
    },
    async stop() {
      await proxy.stop();
      for (const backend of backends.keys()) await cluster.end(backend, "SIGKILL");
    },
  };
  return cluster;
}

/** Sequences of each event in a log; an event that names no number counts as one. */
function eventsOf(log: string): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const [line] of log.matchAll(/\{"event":.*\}/g)) {
    const { event, sequences = 1 } = JSON.parse(line) as { event: string; sequences?: number };
    counts[event] = (counts[event] ?? 0) + sequences;
  }
  return counts;
}
