/** Edge and backend as `npm start` runs them, or the Worker alone, on free loopback ports. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { stageArtifacts } from "../../infra/stage-artifacts.ts";
import { type EdgeSettings, prepareBareEdge } from "../../infra/workerd/edge.ts";
import type { WorkerdOptions, WorkerdProcess } from "../../infra/workerd/process.ts";
import { firstLine } from "./backend-process.ts";
import { endWithProcess } from "./process-end.ts";
import { smallBase } from "./small-base.ts";

const root = path.join(import.meta.dirname, "../..");

export interface StackPlace {
  edge: string;
  key: string;
  state: string;
  backends: { url: string; pid: number }[];
}

export interface RunningStack extends StackPlace {
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<Response>;
  /** POSTs `body`, or sends a GET without one. Returns the answer's JSON. Throws an Error with the answer if the status differs. */
  ask<T>(path: string, body?: unknown, options?: { method?: string; status?: number }): Promise<T>;
}

export interface Stack extends RunningStack {
  log(): string;
  /** Kills the stack, as a failing machine does. State remains only if STATE_DIR was given. */
  kill(): Promise<void>;
  stop(): Promise<void>;
}

/** Waits for the ready line. Throws an Error with the output if none comes. */
export async function startStack(
  env: Record<string, string> = {},
  args: string[] = [],
  file = "start.ts",
): Promise<Stack> {
  const state = await mkdtemp(path.join(tmpdir(), "chameleon-state-"));
  endWithProcess(() => rmSync(state, { recursive: true, force: true }));
  const child = spawn(process.execPath, [path.join(root, "infra", file), "--json", ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, EDGE_PORT: "0", BACKEND_PORT: "0", STATE_DIR: state, ...env },
  });
  let printed = "";
  child.stderr.on("data", (chunk) => {
    printed += chunk;
  });
  const ready = await firstLine(child, () => printed);
  if (ready === null) throw new Error(`the stack ended before it was ready: ${printed}`);
  const { edge, keyFile, key = (await readFile(keyFile, "utf8")).trim(), backends } = JSON.parse(ready);
  const end = async (signal: NodeJS.Signals) => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill(signal);
      await once(child, "exit");
    }
    await rm(state, { recursive: true, force: true, maxRetries: 3 });
  };
  return {
    ...runningStack({ edge, key, state: env.STATE_DIR ?? state, backends }),
    log: () => printed,
    kill: () => end("SIGKILL"),
    stop: () => end("SIGTERM"),
  };
}

export function runningStack(place: StackPlace): RunningStack {
  const send = (method: string, path: string, body: unknown, headers: Record<string, string> = {}) =>
    fetch(place.edge + path, {
      method,
      headers: { "content-type": "application/json", authorization: `Bearer ${place.key}`, ...headers },
      body: typeof body === "string" ? body : JSON.stringify(body),
    });
  return {
    ...place,
    post: (path, body, headers) => send("POST", path, body, headers),
    async ask(path, body, { method = body === undefined ? "GET" : "POST", status = 200 } = {}) {
      const response = await send(method, path, body);
      const text = await response.text();
      if (response.status !== status) throw new Error(`${method} ${path} was answered ${response.status}: ${text}`);
      return JSON.parse(text);
    },
  };
}

/** Starts the Worker alone, with the small base's artifacts unless `assets` are given. */
export async function startEdge(settings: EdgeSettings, options: WorkerdOptions = {}): Promise<WorkerdProcess> {
  if (!settings.assets) await stageArtifacts(smallBase);
  const prepared = await prepareBareEdge(path.join(root, "wrangler.toml"));
  endWithProcess(prepared.remove);
  const workerd = await prepared.start(settings, options);
  return {
    ...workerd,
    async stop() {
      await workerd.stop();
      prepared.remove();
    },
  };
}

/** Ports that were free a moment ago. All are held until the last is found, so that they differ. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer().listen(0, "127.0.0.1");
      await once(server, "listening");
      return server;
    }),
  );
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => once(server.close(), "close")));
  return ports;
}
