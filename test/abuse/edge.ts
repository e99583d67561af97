/**
 * Starts the Worker in workerd alone, with the tenants of a test in its KV namespace, as the target of attacks. What a function here
 * starts is stopped after the running test, or after the file's tests if none runs yet.
 */
import { expect } from "vitest";
import { stageArtifacts } from "../../infra/stage-artifacts.ts";
import type { UsageReport } from "../../shared/contracts/responses.ts";
import type { TenantLimits } from "../../shared/contracts/tenants.ts";
import { atEnd, stopAtEnd } from "../support/at-end.ts";
import { type Backend, startBackend } from "../support/backend-process.ts";
import { keyEntry } from "../support/key-records.ts";
import { watchHeap } from "../support/live-heap.ts";
import { smallBase } from "../support/small-base.ts";
import { startEdge } from "../support/stack.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const BACKEND_SECRETS = "abuse-0123456789abcdef0123456789abcdef";

/** Each tenant's limits, by name. */
type Tenants = Record<string, Partial<TenantLimits>>;

type Headers = Record<string, string>;
export type AttackedEdge = Awaited<ReturnType<typeof startAttackedEdge>>;

export function keyOf(tenant: string): string {
  return `sk-chameleon-abuse-${tenant}`;
}

/** Starts a backend with one thread. */
export async function startAttackedBackend(env: Record<string, string> = {}): Promise<Backend> {
  return stopAtEnd(await startBackend({ BACKEND_SECRETS, THREADS: "1", ...env }));
}

/** Starts a backend with one thread, and an edge in front of it. */
export async function startAttacked(tenants: Tenants, env: Record<string, string> = {}) {
  const backend = await startAttackedBackend(env);
  return { backend, edge: await startAttackedEdge([backend.url], tenants, env.MODEL_DIR) };
}

/** Starts an edge with the artifacts of `model`. Each tenant gets a key with every scope. */
export async function startAttackedEdge(backendUrls: readonly string[], tenants: Tenants, model = smallBase) {
  const assets = temporaryFolder();
  await stageArtifacts(model, `${assets}/artifacts`);
  const vars = { BACKEND_SECRETS, BACKEND_URLS: backendUrls.join(",") };
  const keys = Object.entries(tenants).map(([name, limits]) => keyEntry(keyOf(name), name, limits));
  const entries = Object.fromEntries(await Promise.all(keys));
  const workerd = stopAtEnd(await startEdge({ vars, entries, assets }, { isInspected: true }));
  const send = (method: string, route: string, tenant: string, headers: Headers, body?: string) =>
    fetch(workerd.url + route, {
      method,
      headers: { authorization: `Bearer ${keyOf(tenant)}`, ...headers },
      body,
      signal: AbortSignal.timeout(60_000),
    });
  const get = (route: string, tenant: string) => send("GET", route, tenant, {});
  const post = (route: string, tenant: string, body: unknown, headers: Headers = {}) =>
    send("POST", route, tenant, { "content-type": "application/json", ...headers }, textOf(body));
  return {
    url: workerd.url,
    port: Number(new URL(workerd.url).port),
    /** Process id of workerd. */
    pid: workerd.pid,
    /** Returns a function that reads the isolate's live bytes. `idle` sends a request, which makes the isolate run. */
    async watchHeap(idle: () => Promise<unknown>) {
      const watch = await watchHeap(workerd.inspector!("edge"), async () => void (await idle()));
      atEnd(watch.close);
      return async () => {
        const { heap, buffers } = await watch.live();
        return heap + buffers;
      };
    },
    get,
    post,
    /** Posts a request and returns the answer's JSON. Its status must be `status`. */
    async ask<T>(route: string, tenant: string, body: unknown, status = 200): Promise<T> {
      const response = await post(route, tenant, body);
      const text = await response.text();
      expect(response.status, text).toBe(status);
      return JSON.parse(text);
    },
    usage: async (tenant: string) => ((await (await get("/v1/usage", tenant)).json()) as UsageReport).total,
  };
}

function textOf(body: unknown): string {
  return typeof body === "string" ? body : JSON.stringify(body);
}
