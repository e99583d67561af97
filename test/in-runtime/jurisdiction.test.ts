/**
 * The objects and backends that a tenant of the jurisdiction eu reaches. workerd has no jurisdictions, so the test adds a method to
 * namespaces that records each object and its jurisdiction.
 */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { HttpResponse, http } from "msw";
import { afterEach, describe, expect, test, vi } from "vitest";
import type { Cell } from "../../edge/cell/cell.ts";
import { cellsOf, cellUrl } from "../../edge/cell/cell-names.ts";
import { addressesIn, parseAddresses } from "../../edge/dispatch/addresses.ts";
import { BackendClient } from "../../edge/dispatch/client.ts";
import type { Region } from "../../edge/platform/region.ts";
import { createKeyStore } from "../../edge/tenants/keys.ts";
import type { Ledger } from "../../edge/tenants/ledger.ts";
import { Settlements } from "../../edge/tenants/settlements.ts";
import { createTenantAdapters } from "../../edge/tenants/tenant-adapters.ts";
import { sha256Hex } from "../../shared/bytes.ts";
import { plans, type TenantLimits, tenantPrefix } from "../../shared/contracts/tenants.ts";
import { expectError, jsonOf } from "./answers.ts";
import { backendAnswers, backendStreams, backendUrl, framesStream, lacks, saying } from "./backend.ts";
import { messageToCell, testApp } from "./harness.ts";
import { network } from "./network.ts";
import { configure, localCell } from "./objects.ts";
import { adapterAnswer } from "./tenant.ts";

const outside = "http://127.0.0.1:8790";
const european = `enam=${outside},weur=${backendUrl}`;

/** The prototype of every namespace, also in cells and ledgers. */
const prototype = Object.getPrototypeOf(env.CELLS) as typeof env.CELLS;
const { jurisdiction, getByName } = prototype;
afterEach(() => void Object.assign(prototype, { jurisdiction, getByName }));

/** Returns the objects that are asked for, such as "eu weur cell-…": jurisdiction, hint, name. */
function withJurisdictions(): string[] {
  const asked: string[] = [];
  prototype.getByName = function (this: typeof env.CELLS, name, options) {
    asked.push(name);
    return getByName.call(this, name, options) as never;
  };
  prototype.jurisdiction = function (this: typeof env.CELLS, place: string) {
    const get = (name: string, options: { locationHint?: string } = {}) => {
      asked.push(`${place} ${options.locationHint ?? "-"} ${name}`);
      return getByName.call(this, name, options as never);
    };
    return { getByName: get } as never;
  };
  return asked;
}

const mail = { name: "mail", examples: ["aaaa", "bbb", "aab"] };
let tenants = 0;
const limits = { requestsPerMinute: 100, tokensPerMinute: 10_000, concurrentRequests: 9, tokensPerMonth: 100_000 };

async function europeanApp(own: TenantLimits = limits, backends = european, prefix = "eu:european") {
  const tenant = `${prefix}-${tenants++}`;
  const hash = await sha256Hex(new TextEncoder().encode(`sk-${tenant}`));
  const stored = { plan: "standard", limits: own, origins: [] };
  const get = async (name: string) => (name === tenantPrefix + tenant ? stored : null);
  const clients = (place: "eu" | null) =>
    addressesIn(place, parseAddresses(backends, "X")).map(({ url }) => new BackendClient(url));
  const now = () => Date.now();
  const parts = {
    keys: createKeyStore([{ hash, tenant }], { get } as never, now),
    adapters: createTenantAdapters({ stores: env.ADAPTERS, clients, now, background: () => undefined }),
  };
  return { tenant, ...testApp(parts, `Bearer sk-${tenant}`) };
}

async function setBackends(BACKEND_URLS: string): Promise<void> {
  for (const region of ["weur", "eeur"] as const) {
    for (const name of cellsOf("eu:any", region, Number(env.CELLS_PER_REGION))) {
      await configure(getByName.call(env.CELLS, name) as DurableObjectStub<Cell>, { BACKEND_URLS });
    }
  }
}

/** Location data that Cloudflare adds to a request, for a place in each of two regions. */
const places: Partial<Record<Region, RequestInitCfProperties>> = {
  eeur: { continent: "EU", longitude: "21.0", latitude: "52.2" },
  apac: { continent: "AS", longitude: "139.7", latitude: "35.7" },
};

test.each(["eeur", "apac"] as const)(
  "a request from %s calls each of its tenant's objects once, and a cell in its region, before a backend",
  async (region) => {
    const { complete, tenant } = await europeanApp(limits, european, "anywhere");
    const calls: string[] = [];
    prototype.getByName = function (this: typeof env.CELLS, name, options) {
      const stub = getByName.call(this, name, options) as unknown as Record<string, (...given: unknown[]) => unknown>;
      const get =
        (_: object, method: string) =>
        (...given: unknown[]) => {
          calls.push(`${method} ${name} ${options?.locationHint ?? "-"}`);
          return stub[method](...given);
        };
      return new Proxy(stub, { get }) as never;
    };
    backendAnswers(({ id }) => {
      calls.push("batch");
      return saying(id, "b");
    });
    await jsonOf(complete({ prompt: "aaa", max_tokens: 1 }, { cf: places[region] }));
    const [cell] = cellsOf(tenant, region, Number(env.CELLS_PER_REGION));
    const expected = [`nearest ${tenant} -`, `admit ${tenant} ${region}`, `fetch ${cell} ${region}`];
    expect(calls.slice(0, calls.indexOf("batch")).sort()).toEqual(expected.sort());
  },
);

describe("a tenant of the EU", () => {
  test.each([
    ["apac", "weur"],
    ["eeur", "eeur"],
  ] as const)("from %s is answered by objects in %s and by backends in the EU alone", async (from, region) => {
    await setBackends(european);
    const { post, request, complete, settled, tenant } = await europeanApp();
    const headers = { "cf-ipcountry": "US", "x-jurisdiction": "none", "cf-region": "enam" };
    const init = { headers, cf: places[from] };
    const asked = withJurisdictions();
    let isBrought = false;
    backendStreams(({ sequences: [{ id }] }) =>
      isBrought ? framesStream(saying(id, "ok")) : lacks("adapter_not_found"),
    );
    network.use(
      http.post(`${backendUrl}/v1/adapters`, () => HttpResponse.json(adapterAnswer("4".repeat(64)), { status: 201 })),
      http.put(`${backendUrl}/v1/adapters/*`, () => {
        isBrought = true;
        return new HttpResponse(null, { status: 204 });
      }),
      http.delete(`${backendUrl}/v1/adapters/*`, () => new HttpResponse(null, { status: 204 })),
      http.all(`${outside}/*`, () => HttpResponse.error()),
    );
    await jsonOf(post("/v1/adapters", mail, init), 201);
    await jsonOf(complete({ model: "gpt2:mail", prompt: "aa", max_tokens: 2 }, init));
    expect(isBrought).toBe(true);
    expect((await request("/v1/adapters/mail", { method: "DELETE", ...init })).status).toBe(200);
    await settled();
    await vi.waitFor(async () =>
      expect(await jsonOf(request("/v1/usage", init))).toMatchObject({ total: { requests: 2 } }),
    );
    const [cell] = cellsOf(tenant, region, Number(env.CELLS_PER_REGION));
    expect(new Set(asked)).toEqual(new Set([`eu - ${tenant}`, `eu ${region} ${tenant}`, `eu ${region} ${cell}`]));
  });

  test("gets an error, not an answer from elsewhere, if no backend is in the EU", async () => {
    await setBackends(`enam=${outside},http://127.0.0.1:8791`);
    const { complete, post } = await europeanApp(limits, `enam=${outside}`);
    withJurisdictions();
    const mentions = "No backend is configured in the jurisdiction eu";
    for (const response of [await complete({ prompt: "aaa" }), await post("/v1/adapters", mail)]) {
      await expectError(response, { status: 503, code: "backend_unavailable", mentions });
    }
  });

  test.each([
    ["with limits", limits],
    ["without limits", plans.unlimited],
  ])("%s is refused where the runtime has no jurisdictions, and no object is made elsewhere", async (_, own) => {
    const { complete, request } = await europeanApp(own);
    const seen = backendAnswers(({ id }) => saying(id, "b"));
    withJurisdictions();
    prototype.jurisdiction = jurisdiction;
    const made = vi.spyOn(prototype, "getByName");
    const refused = { status: 503, mentions: "jurisdiction eu" };
    await expectError(complete({ prompt: "aaa" }), refused);
    for (const path of ["/v1/usage", "/v1/adapters", "/v1/models"]) await expectError(request(path), refused);
    expect([made.mock.calls, seen.batches]).toEqual([[], []]);
  });

  test("is refused by a cell that is not in the EU, before any work", async () => {
    const seen = backendAnswers(({ id }) => saying(id, "b"));
    const message = await messageToCell({ prompt: "aaa" });
    const admitted = { ...message.admitted, tenant: "eu:acme" };
    const body = JSON.stringify({ ...message, admitted });
    const response = await localCell().fetch(cellUrl, { method: "POST", body });
    expect([response.status, seen.batches]).toEqual([500, []]);
  });

  test("a settlement that failed is kept by its cell, and tried again with the ledger in the EU", async () => {
    const cell = getByName.call(env.CELLS, "eu:cell-weur-0") as DurableObjectStub<Cell>;
    await runInDurableObject(cell, async (_: Cell, { storage }) => {
      const settled: string[] = [];
      let isLost = true;
      const settleAll = async (name: string) => {
        if (isLost) throw new Error("lost");
        settled.push(name);
        return [];
      };
      const inEurope = { getByName: (name: string) => ({ settleAll: () => settleAll(name) }) };
      const ledgers = { jurisdiction: () => inEurope } as unknown as DurableObjectNamespace<Ledger>;
      const settlements = new Settlements({
        ...{ ledgers, storage, now: Date.now, newId: () => crypto.randomUUID(), report: () => undefined },
      });
      const request = { requestId: "r1", tenant: "eu:acme", beganMs: 0, isLimited: true };
      await settlements.record(request, []);
      isLost = false;
      await settlements.retry();
      expect(settled).toEqual(["eu:acme"]);
      await storage.deleteAlarm();
    });
  });
});
