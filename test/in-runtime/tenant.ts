/** A new tenant for each test: its app, its objects, and a backend that makes its adapters and memories. */
import { runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { HttpResponse, http } from "msw";
import { beforeAll, beforeEach, expect } from "vitest";
import type { Dependencies } from "../../edge/api/dependencies.ts";
import { type Artifacts, heldSet } from "../../edge/artifacts/artifacts.ts";
import { type Access, createKeyStore } from "../../edge/tenants/keys.ts";
import { ledgerOf } from "../../edge/tenants/ledger.ts";
import type { TenantAdapterStore } from "../../edge/tenants/tenant-adapter-store.ts";
import { sha256Hex } from "../../shared/bytes.ts";
import type { FileObject } from "../../shared/contracts/fine-tuning.ts";
import {
  type AdapterAnswer,
  type AdapterRequest,
  adapterRequestSchema,
  type DoneFrame,
  type Frame,
  type MemoryProgress,
  type MemoryRequest,
  memoryRequestSchema,
  type SequenceRequest,
  type TokenFrame,
} from "../../shared/contracts/inference.ts";
import type { Adapter, UsageReport } from "../../shared/contracts/responses.ts";
import { jsonOf, type MaybePromise } from "./answers.ts";
import { backendUrl, byteStream, saying } from "./backend.ts";
import { testApp } from "./harness.ts";
import { edgeArtifacts, edgeArtifactsWith, publish } from "./model.ts";
import { network } from "./network.ts";

export const gain = { nats: 0.25, ci95: [0.2, 0.3] as [number, number], tokens: 400 };
export const adapterFile = [1, 2, 3, 250];
export const ready: MemoryProgress = { type: "ready", tokens: 8, bytes: 100, computedTokens: 8 };
export const unavailable = () => HttpResponse.json({ error: { message: "starting", code: null } }, { status: 503 });
/** Timeout until use has reached a tenant's ledger, which takes seconds. */
export const patience = { timeout: 10_000 };

export function adapterAnswer(hash: string, change: Partial<AdapterAnswer> = {}): AdapterAnswer {
  const losses = [
    { step: 0, train: 2, heldOut: 2.1 },
    { step: 8, train: 1.5, heldOut: 1.75 },
  ];
  const file = btoa(String.fromCharCode(...adapterFile));
  return { hash, gain, kept: true, losses, tokens: 8, file, timings: { hiddenMs: 1, fitMs: 2 }, ...change };
}

export const passage = { memory: 0, document: "text-1", start: 2, end: 9, tokens: 7, similarity: 0.87654 };

export function sayingWithPassages({ id, promptIds }: SequenceRequest, passages = [passage]): Frame[] {
  const [first, second, done] = saying(id, "ok");
  const counted = { retrieved: passages, promptTokens: promptIds.length + 9 };
  return [{ ...first, retrievedTokens: 9 } as TokenFrame, second, { ...done, ...counted } as DoneFrame];
}

/** The app of `parts` serves `before`, until the test serves the other set. */
export function useTwoSets() {
  const sets = {} as { before: Artifacts; after: Artifacts; served: Artifacts };
  const serve = async (set: Artifacts) => {
    sets.served = set;
    await publish(set.manifestHash);
  };
  beforeAll(async () => {
    Object.assign(sets, { before: await edgeArtifacts(), after: await edgeArtifactsWith(true) });
    for (const set of [sets.before, sets.after]) expect(heldSet(set.manifestHash)).toBe(set);
  });
  beforeEach(() => serve(sets.before));
  return Object.assign(sets, { serve, parts: () => ({ artifacts: async () => sets.served }) });
}

/** What the backend answers instead of its default. A test may change it at any time. */
interface Making {
  adapter?: Partial<AdapterAnswer>;
  fit?(made: Response, request: AdapterRequest, signal: AbortSignal): MaybePromise<Response>;
  memory?(request: MemoryRequest): MemoryProgress[] | Response;
  deletion?: number;
}

export function backendDeletes(): string[] {
  const paths: string[] = [];
  network.use(
    http.delete(`${backendUrl}/v1/*/*`, ({ request }) => {
      paths.push(new URL(request.url).pathname);
      return new HttpResponse(null, { status: 204 });
    }),
  );
  return paths;
}

let tenants = 0;

/** Two tenants that have nothing yet. `prefix-1` is the first tenant's name. */
async function newTenants(prefix: string) {
  const both = [`${prefix}-${++tenants}`, `${prefix}-${++tenants}`];
  const hashOf = (tenant: string) => sha256Hex(new TextEncoder().encode(`sk-${tenant}`));
  const hashed = await Promise.all(both.map(async (tenant) => ({ tenant, hash: await hashOf(tenant) })));
  const keys = createKeyStore(hashed, { get: async () => null } as never, () => Date.now());
  const [mine, theirs] = both.map((tenant) => ({ authorization: `Bearer sk-${tenant}` }));
  return { keys, tenant: both[0], mine, theirs };
}

export function useTenant(prefix: string, parts: () => Partial<Dependencies> = () => ({})) {
  const names = {} as Awaited<ReturnType<typeof newTenants>>;
  beforeEach(async () => void Object.assign(names, await newTenants(prefix)));
  const app = (more: Partial<Dependencies> = {}) =>
    testApp({ keys: names.keys, ...parts(), ...more }, names.mine.authorization);
  const store = () => env.ADAPTERS.getByName(names.tenant);
  const json = async <T>(path: string) => (await app().request(path)).json<T>();

  /** A backend that makes every adapter and memory, with the requested hash. Returns what it received. */
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
        return new HttpResponse(null, { status: making.deletion ?? 204 });
      }),
    );
    return seen;
  }

  const rows = <T extends Record<string, SqlStorageValue>>(query: string) =>
    runInDurableObject(store(), (_: TenantAdapterStore, { storage }) => storage.sql.exec<T>(query).toArray());
  const create = (rest: object, name = "notes") => app().post("/v1/adapters", { name, ...rest });
  return Object.assign(names, {
    ...{ app, store, json, backendMakes, create },
    alarm: () => runDurableObjectAlarm(store()),
    /** The adapter must be made at once. */
    created: (rest: object, name?: string) => jsonOf<Adapter>(create(rest, name), 201),
    keysWith: (change: Partial<Access>): Pick<Dependencies, "keys"> => ({
      keys: { accessOf: async (...key) => ({ ...(await names.keys.accessOf(...key)), ...change }) },
    }),
    shown: (name = "notes") => json<Adapter>(`/v1/adapters/${name}`),
    remove: (name = "notes") => app().request(`/v1/adapters/${name}`, { method: "DELETE" }),
    rows,
    /** Every value of a table as text, bytes as Latin-1. */
    async valuesIn(table: string): Promise<string[]> {
      const values = (await rows(`SELECT * FROM "${table}"`)).flatMap((row) => Object.values(row));
      const latin1 = new TextDecoder("latin1");
      return values.map((value) => (value instanceof ArrayBuffer ? latin1.decode(value) : String(value)));
    },
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
    /** Each line is an example. */
    async uploaded(lines: readonly string[]): Promise<FileObject> {
      const form = new FormData();
      form.append("purpose", "fine-tune");
      form.append("file", new File([lines.join("\n")], "examples.jsonl"));
      return jsonOf(app().request("/v1/files", { method: "POST", body: form }));
    },
  });
}
