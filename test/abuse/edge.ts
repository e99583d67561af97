/** Starts the Worker in workerd alone, with the tenants of a test in its KV namespace, as the target of attacks. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { stageArtifacts } from "../../infra/stage-artifacts.ts";
import type { TenantLimits } from "../../shared/contracts/tenants.ts";
import { keyEntry } from "../support/key-records.ts";
import { type HeapWatch, watchHeap } from "../support/live-heap.ts";
import { smallBase } from "../support/small-base.ts";
import { startEdge } from "../support/stack.ts";

export const BACKEND_SECRETS = "abuse-0123456789abcdef0123456789abcdef";

export interface Tenant {
  limits?: Partial<TenantLimits>;
}

export interface AttackedEdge {
  url: string;
  port: number;
  /** Process id of workerd. */
  pid: number;
  /** Measures the isolate's heap after a garbage collection; `idle` sends a request, which makes the isolate run. */
  watchHeap(idle: () => Promise<void>): Promise<HeapWatch>;
  log(): string;
  get(path: string, tenant: string, headers?: Record<string, string>): Promise<Response>;
  post(path: string, tenant: string, body: unknown, headers?: Record<string, string>): Promise<Response>;
  stop(): Promise<void>;
}

export function keyOf(tenant: string): string {
  return `sk-chameleon-abuse-${tenant}`;
}

/** Starts an edge with the artifacts of `model`, by default the small base. Each of `tenants` gets a key with every scope. */
export async function startAttackedEdge(options: {
  backendUrls: readonly string[];
  tenants: Record<string, Tenant>;
  model?: string;
}): Promise<AttackedEdge> {
  const assets = await mkdtemp(path.join(tmpdir(), "chameleon-abuse-assets-"));
  await stageArtifacts(options.model ?? smallBase, path.join(assets, "artifacts"));
  const vars = { BACKEND_SECRETS, BACKEND_URLS: options.backendUrls.join(",") };
  const keys = Object.entries(options.tenants).map(([name, { limits }]) => keyEntry(keyOf(name), name, limits));
  const entries = Object.fromEntries(await Promise.all(keys));
  const workerd = await startEdge({ vars, entries, assets }, { isInspected: true });
  const send = (method: string, route: string, tenant: string, headers: Record<string, string>, body?: string) =>
    fetch(workerd.url + route, {
      method,
      headers: { authorization: `Bearer ${keyOf(tenant)}`, ...headers },
      body,
      signal: AbortSignal.timeout(60_000),
    });
  return {
    url: workerd.url,
    port: Number(new URL(workerd.url).port),
    pid: workerd.pid,
    watchHeap: (idle) => watchHeap([workerd.inspector!("edge")], idle),
    log: workerd.log,
    get: (route, tenant, headers = {}) => send("GET", route, tenant, headers),
    post: (route, tenant, body, headers = {}) =>
      send("POST", route, tenant, { "content-type": "application/json", ...headers }, textOf(body)),
    async stop() {
      await workerd.stop();
      await rm(assets, { recursive: true });
    },
  };
}

function textOf(body: unknown): string {
  return typeof body === "string" ? body : JSON.stringify(body);
}
