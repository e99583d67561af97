/** An edge with tenants and two backends on the small base; all of them keep their state through restarts. */
import { mkdir, rm } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { stageArtifacts } from "../../infra/stage-artifacts.ts";
import { stateFolders } from "../../infra/workerd/config.ts";
import { prepareBareEdge } from "../../infra/workerd/edge.ts";
import { atEnd } from "../support/at-end.ts";
import { isRunning, startBackend } from "../support/backend-process.ts";
import { keyEntry } from "../support/key-records.ts";
import { smallBase } from "../support/small-base.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const BACKEND_SECRETS = "memory-0123456789abcdef0123456789abcdef";
const keyOf = (tenant: string) => `sk-chameleon-memory-${tenant}`;

/** `settings` are added to the backends' environment. */
export async function startMemoryCluster(tenants: readonly string[], settings: Record<string, string> = {}) {
  const folder = temporaryFolder();
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
  atEnd(prepared.remove);
  const vars = { BACKEND_SECRETS, BACKEND_URLS: backends.map(({ url }) => url).join(",") };
  const entries = Object.fromEntries(await Promise.all(tenants.map((tenant) => keyEntry(keyOf(tenant), tenant))));
  const startWorkerd = () => prepared.start({ vars, entries, state });
  let edge = await startWorkerd();
  return {
    backends,
    /** Folder of the bucket that edge and backends read artifacts from. */
    bucket,
    call: (tenant: string, method: string, route: string, body?: unknown) =>
      fetch(edge.url + route, {
        method,
        headers: {
          authorization: `Bearer ${keyOf(tenant)}`,
          ...(!(body instanceof FormData) && { "content-type": "application/json" }),
        },
        body: body === undefined || body instanceof FormData ? body : JSON.stringify(body),
      }),
    /** Kills the edge; `startEdge` starts another one on its stored state. */
    killEdge: () => edge.stop(),
    async startEdge() {
      edge = await startWorkerd();
    },
    /** Ends a backend and starts it again on its old port; `isEmptied` deletes its disk before. */
    async restartBackend(backend: number, signal: NodeJS.Signals, isEmptied = false) {
      await backends[backend].stop(signal);
      if (isEmptied) await rm(dataOf(backend), { recursive: true, force: true });
      backends[backend] = await start(backend, new URL(backends[backend].url).port);
    },
    /** Kills a backend's engine, which the backend starts again. */
    killEngine(backend: number) {
      const pid = backends[backend].enginePids().at(-1)!;
      if (isRunning(pid)) process.kill(pid, "SIGKILL");
    },
    async stop() {
      await edge.stop();
      await Promise.all(backends.map((backend) => backend.stop()));
    },
  };
}
