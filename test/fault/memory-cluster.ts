/** An edge with tenants and two backends on the small base; all of them keep their state through restarts. */
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { stageArtifacts } from "../../infra/stage-artifacts.ts";
import { stateFolders } from "../../infra/workerd/config.ts";
import { prepareBareEdge } from "../../infra/workerd/edge.ts";
import type { WorkerdProcess } from "../../infra/workerd/process.ts";
import { type Backend, isRunning, startBackend } from "../support/backend-process.ts";
import { keyEntry } from "../support/key-records.ts";
import { smallBase } from "../support/small-base.ts";

const BACKEND_SECRETS = "memory-0123456789abcdef0123456789abcdef";
const keyOf = (tenant: string) => `sk-chameleon-memory-${tenant}`;

export interface MemoryCluster {
  backends: Backend[];
  /** Folder of the bucket that edge and backends read artifacts from. */
  bucket: string;
  call(tenant: string, method: string, route: string, body?: unknown): Promise<Response>;
  /** Kills the edge; `startEdge` starts another one on its stored state. */
  killEdge(): Promise<void>;
  startEdge(): Promise<void>;
  /** Ends a backend and starts it again on its old port; `isEmptied` deletes its disk before. */
  restartBackend(backend: number, signal: NodeJS.Signals, isEmptied?: boolean): Promise<void>;
  /** Kills a backend's engine, which the backend starts again. */
  killEngine(backend: number): void;
  stop(): Promise<void>;
}

/** `settings` are added to the backends' environment. */
export async function startMemoryCluster(
  tenants: readonly string[],
  settings: Record<string, string> = {},
): Promise<MemoryCluster> {
  const folder = await mkdtemp(path.join(tmpdir(), "chameleon-memory-cluster-"));
  await stageArtifacts(smallBase);
  const dataOf = (backend: number) => path.join(folder, `data-${backend}`);
  const state = path.join(folder, "state");
  const bucket = stateFolders.bucket(state, "ARTIFACTS");
  await mkdir(bucket, { recursive: true });
  const ARTIFACTS_URL = pathToFileURL(bucket).href;
  const start = (backend: number, BACKEND_PORT: string) => {
    const own = { DATA_DIR: dataOf(backend), BACKEND_NAME: `pod-${backend}`, BACKEND_PORT };
    return startBackend({ MODEL_DIR: smallBase, THREADS: "1", BACKEND_SECRETS, ARTIFACTS_URL, ...settings, ...own });
  };
  const backends = await Promise.all([0, 1].map((backend) => start(backend, "0")));
  const prepared = await prepareBareEdge(path.join(import.meta.dirname, "../../wrangler.toml"));
  const vars = { BACKEND_SECRETS, BACKEND_URLS: backends.map(({ url }) => url).join(",") };
  const entries = Object.fromEntries(await Promise.all(tenants.map((tenant) => keyEntry(keyOf(tenant), tenant))));
  let edge: WorkerdProcess;
  const cluster: MemoryCluster = {
    ...{ backends, bucket },
    call: (tenant, method, route, body) =>
      fetch(edge.url + route, {
        method,
        headers: {
          authorization: `Bearer ${keyOf(tenant)}`,
          ...(!(body instanceof FormData) && { "content-type": "application/json" }),
        },
        body: body === undefined || body instanceof FormData ? body : JSON.stringify(body),
      }),
    killEdge: () => edge.stop(),
    async startEdge() {
      edge = await prepared.start({ vars, entries, state });
    },
    async restartBackend(backend, signal, isEmptied = false) {
      const { child, exited, url } = backends[backend];
      child.kill(signal);
      await exited;
      if (isEmptied) await rm(dataOf(backend), { recursive: true, force: true });
      backends[backend] = await start(backend, new URL(url).port);
    },
    killEngine(backend) {
      const pid = backends[backend].enginePids().at(-1)!;
      if (isRunning(pid)) process.kill(pid, "SIGKILL");
    },
    async stop() {
      await edge.stop();
      for (const { child, exited } of backends) {
        child.kill("SIGKILL");
        await exited;
      }
      prepared.remove();
      await rm(folder, { recursive: true, force: true });
    },
  };
  await cluster.startEdge();
  return cluster;
}
