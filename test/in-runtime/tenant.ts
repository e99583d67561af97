/** A new tenant for each test of a file: its app, its objects, and a backend that makes its adapters and memories. */
import { runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { HttpResponse, http } from "msw";
import { beforeEach, expect } from "vitest";
import type { Dependencies } from "../../edge/api/dependencies.ts";
import { ledgerOf } from "../../edge/tenants/ledger.ts";
import type { TenantAdapterStore } from "../../edge/tenants/tenant-adapter-store.ts";
import { sha256Hex } from "../../shared/bytes.ts";
import type { FileObject } from "../../shared/contracts/fine-tuning.ts";
import {
  type AdapterAnswer,
  type AdapterRequest,
  adapterRequestSchema,
  type MemoryProgress,
  type MemoryRequest,
  memoryRequestSchema,
} from "../../shared/contracts/inference.ts";
import type { Adapter, UsageReport } from "../../shared/contracts/responses.ts";
import { backendUrl, byteStream, type MaybePromise, network, newTenants, testApp } from "./harness.ts";

export const gain = { nats: 0.25, ci95: [0.2, 0.3] as [number, number], tokens: 400 };
/** Bytes of every fitted adapter. */
export const adapterFile = [1, 2, 3, 250];
export const ready: MemoryProgress = { type: "ready", tokens: 8, bytes: 100, computedTokens: 8 };
export const unavailable = () => HttpResponse.json({ error: { message: "starting", code: null } }, { status: 503 });
/** Timeout of waits for use to reach a tenant's ledger, which takes seconds. */
export const patience = { timeout: 10_000 };

/** A backend's answer to a request for an adapter. */
export function adapterAnswer(hash: string, change: Partial<AdapterAnswer> = {}): AdapterAnswer {
  const losses = [
    { step: 0, train: 2, heldOut: 2.1 },
    { step: 8, train: 1.5, heldOut: 1.75 },
  ];
  const file = btoa(String.fromCharCode(...adapterFile));
  return { hash, gain, kept: true, losses, tokens: 8, file, timings: { hiddenMs: 1, fitMs: 2 }, ...change };
}

/** What the backend answers instead of its default. Read at each request, so a test may change it. */
interface Making {
  adapter?: Partial<AdapterAnswer>;
  fit?(made: Response, request: AdapterRequest, signal: AbortSignal): MaybePromise<Response>;
  memory?(request: MemoryRequest): MemoryProgress[] | Response;
}

/** `parts` replace dependencies of the tenant's app. */
export function useTenant(prefix: string, parts: () => Partial<Dependencies> = () => ({})) {
  const names = {} as Awaited<ReturnType<typeof newTenants>>;
  beforeEach(async () => void Object.assign(names, await newTenants(prefix)));
  const app = (more: Partial<Dependencies> = {}) =>
    testApp({ keys: names.keys, ...parts(), ...more }, names.mine.authorization);
  const store = () => env.ADAPTERS.getByName(names.tenant);
  const json = async <T>(path: string) => (await app().request(path)).json<T>();

  /** A backend that makes every adapter and memory, with the hash that was requested. Returns what it received. */
  function backendMakes(making: Making = {}) {
    const seen = {
      fits: [] as AdapterRequest[],
      puts: [] as { path: string; body: MemoryRequest }[],
      deletions: [] as string[],
      aborted: 0,
    };
    network.use(
      http.post(`${backendUrl}/v1/adapters`, async ({ request }) => {
        const body = adapterRequestSchema.parse(await request.json());
        seen.fits.push(body);
        request.signal.addEventListener("abort", () => {
          seen.aborted++;
        });
        const hash = await sha256Hex(new TextEncoder().encode(JSON.stringify(body)));
        const made = HttpResponse.json(adapterAnswer(hash, making.adapter), { status: 201 });
        return making.fit?.(made, body, request.signal) ?? made;
      }),
      http.put(`${backendUrl}/v1/memories/*`, async ({ request }) => {
        const body = memoryRequestSchema.parse(await request.json());
        seen.puts.push({ path: new URL(request.url).pathname, body });
        const said = making.memory?.(body) ?? [ready];
        if (said instanceof Response) return said;
        return new HttpResponse(byteStream(said.map((line) => `${JSON.stringify(line)}\n`)));
      }),
      http.delete(`${backendUrl}/v1/*/*`, ({ request }) => {
        const { pathname } = new URL(request.url);
        // Objects of earlier tests may still repeat deletions.
        if (pathname.split("/").includes(names.tenant)) seen.deletions.push(pathname);
        return new HttpResponse(null, { status: 204 });
      }),
    );
    return seen;
  }

  return Object.assign(names, {
    app,
    store,
    json,
    backendMakes,
    alarm: () => runDurableObjectAlarm(store()),
    create: (rest: object, name = "notes") => app().post("/v1/adapters", { name, ...rest }),
    shown: (name = "notes") => json<Adapter>(`/v1/adapters/${name}`),
    remove: (name = "notes") => app().request(`/v1/adapters/${name}`, { method: "DELETE" }),
    /** Rows of the tenant's object. */
    rows: <T extends Record<string, SqlStorageValue>>(query: string) =>
      runInDurableObject(store(), (_: TenantAdapterStore, { storage }) => storage.sql.exec<T>(query).toArray()),
    /** Moves the clock of the tenant's object forward. */
    setTime: (ms: number) =>
      runInDurableObject(store(), (object: TenantAdapterStore) => {
        object.now = () => Date.now() + ms;
      }),
    /** Requests and prompt tokens that the tenant was charged. */
    async charged(): Promise<[number, number]> {
      await runDurableObjectAlarm(ledgerOf(env.LEDGERS, names.tenant));
      const { total } = await json<UsageReport>("/v1/usage");
      return [total.requests, total.prompt_tokens];
    },
    /** Uploads a file of examples, one on a line. */
    async uploaded(lines: readonly string[]): Promise<FileObject> {
      const form = new FormData();
      form.append("purpose", "fine-tune");
      form.append("file", new File([lines.join("\n")], "examples.jsonl"));
      const made = await app().request("/v1/files", { method: "POST", body: form });
      expect(made.status, await made.clone().text()).toBe(200);
      return made.json();
    },
  });
}
