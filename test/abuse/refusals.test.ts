/**
 * Attack: refused requests with bodies of a megabyte on 64 connections, and bodies that never end.
 * Judged by: another tenant's median latency relative to that without the attack in the same run, the attacker's count of
 * requests, the edge's memory.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Backend, startBackend } from "../support/backend-process.ts";
import { postBytes, sendAndNeverRead, statusFor } from "./clients.ts";
import { type AttackedEdge, BACKEND_SECRETS, startAttackedEdge } from "./edge.ts";
import { megabytes, mostGrowthBytes, mostSlowdown, residentBytes, slowdownBeside } from "./measurements.ts";

const connections = 64;
const requestsPerMinute = 40;
const words = "again and ".repeat(100_000);

const overlong: Record<string, object> = {
  "/v1/completions": { prompt: words },
  "/v1/chat/completions": { messages: [{ role: "user", content: words }] },
  "/v1/assign": { input: words },
  "/v1/embeddings": { model: "gpt2", input: words },
};
const routes = Object.keys(overlong);
/** Allowed statuses: /v1/assign reads only the beginning of a text, so it accepts a long one. */
const answered: Record<string, RegExp> = { "/v1/assign": /^(200|400|413|429|closed)$/ };
const refused = /^(400|413|429|closed)$/;

let backend: Backend;
let edge: AttackedEdge;
beforeAll(async () => {
  backend = await startBackend({ BACKEND_SECRETS, THREADS: "1" });
  const counted = [...routes, "bad JSON", "an unknown model", "a field over its limit"].map(tenantOf);
  edge = await startAttackedEdge({
    backendUrls: [backend.url],
    tenants: {
      quiet: {},
      unlimited: {},
      // Not paced because of other tests.
      fresh: {},
      unpacedSpent: { limits: { tokensPerMonth: 0 } },
      limited: { limits: { requestsPerMinute: 600 } },
      spent: { limits: { tokensPerMonth: 0 } },
      exhausted: { limits: { requestsPerMinute: 1 } },
      slow: {},
      noScope: { scopes: ["usage"] },
      ...Object.fromEntries(counted.map((tenant) => [tenant, { limits: { requestsPerMinute } }])),
    },
  });
});
afterAll(async () => {
  await edge?.stop();
  backend?.child.kill();
  await backend?.exited;
});

function tenantOf(what: string): string {
  return what.replaceAll(/[^a-z]/gi, "-");
}

async function shortCompletion(): Promise<void> {
  const response = await edge.post("/v1/completions", "quiet", { prompt: "Once", max_tokens: 4, temperature: 0 });
  expect(response.status, await response.text()).toBe(200);
}

const floods: [route: string, tenant: string][] = [
  ...routes.map((route): [string, string] => [route, "unlimited"]),
  ["/v1/completions", "limited"],
  ["/v1/completions", "spent"],
  ["/v1/embeddings", "spent"],
];

test.each(floods)(
  "a flood of refused megabytes to %s by a tenant that is %s slows another caller at most fourfold",
  async (route, tenant) => {
    const bytesBase64 = postBytes(route, tenant, overlong[route]).toString("base64");
    const found = await slowdownBeside({ port: edge.port, bytesBase64, connections }, shortCompletion);
    console.log(
      `${route} ${tenant}: another caller's p50 ${found.aloneMs.toFixed(1)} ms alone, ${found.besideMs.toFixed(1)} ms beside: ${found.ratio.toFixed(1)}x; ${JSON.stringify(found.statuses)}`,
    );
    const other = Object.keys(found.statuses).filter((status) => !(answered[route] ?? refused).test(status));
    expect(other).toEqual([]);
    expect(found.ratio).toBeLessThanOrEqual(mostSlowdown);
  },
);

describe("refused requests count as requests a minute", () => {
  const cases: [what: string, route: string, body: unknown, status: number][] = [
    ["/v1/completions", "/v1/completions", overlong["/v1/completions"], 400],
    ["/v1/chat/completions", "/v1/chat/completions", overlong["/v1/chat/completions"], 400],
    ["/v1/embeddings", "/v1/embeddings", overlong["/v1/embeddings"], 400],
    ["/v1/assign", "/v1/assign", { model: "gpt5", input: "Once" }, 404],
    ["bad JSON", "/v1/completions", '{"prompt": ', 400],
    ["an unknown model", "/v1/completions", { model: "gpt5", prompt: "Once" }, 404],
    ["a field over its limit", "/v1/completions", { prompt: "Once", temperature: 3 }, 400],
  ];
  test.each(cases)("%s", async (what, route, body, status) => {
    const tenant = tenantOf(what);
    const count = 5;
    for (let i = 0; i < count; i++) {
      const response = await edge.post(route, tenant, body);
      expect(response.status, await response.text()).toBe(status);
    }
    const counted = await edge.post("/v1/completions", tenant, { prompt: "Once", max_tokens: 1 });
    expect(counted.status, await counted.text()).toBe(200);
    expect(Number(counted.headers.get("x-ratelimit-remaining-requests"))).toBe(requestsPerMinute - count - 1);
  });
});

test("what headers decide waits for no body", async () => {
  // So that their refusals are cached.
  for (const tenant of ["exhausted", "exhausted", "unpacedSpent"]) {
    await (await edge.post("/v1/completions", tenant, { prompt: "Once", max_tokens: 1 })).text();
  }
  const cases: [string, Buffer, number][] = [
    ["an unknown key", postBytes("/v1/completions", "nobody", "", 1_000_000), 401],
    ["a key without the scope", postBytes("/v1/completions", "noScope", "", 1_000_000), 403],
    ["a body that is declared too large", postBytes("/v1/completions", "fresh", "", 2_000_000), 413],
    ["a tenant that has no request left", postBytes("/v1/completions", "exhausted", "", 1_000_000), 429],
    ["a tenant that has no token left", postBytes("/v1/completions", "unpacedSpent", "", 1_000_000), 429],
  ];
  const found = await Promise.all(
    cases.map(async ([what, bytes]) => [what, await statusFor(edge.port, bytes, 10_000)]),
  );
  expect(found).toEqual(cases.map(([what, , status]) => [what, status]));
});

test("400 bodies that never end, of one key, hold little memory, and others are served meanwhile", async () => {
  const unended = 400;
  const body = "x".repeat(1_000_000);
  await shortCompletion();
  const beforeBytes = residentBytes(edge.pid);
  const bytes = postBytes("/v1/completions", "slow", body, body.length + 1);
  const sockets = await Promise.all(Array.from({ length: unended }, () => sendAndNeverRead(edge.port, bytes)));
  try {
    let peak = 0;
    for (let i = 0; i < 20; i++) {
      await shortCompletion();
      peak = Math.max(peak, residentBytes(edge.pid));
    }
    console.log(
      `${unended} bodies of a megabyte that lack a byte: edge ${megabytes(beforeBytes)} → ${megabytes(peak)}`,
    );
    expect(peak - beforeBytes).toBeLessThanOrEqual(mostGrowthBytes);
  } finally {
    for (const socket of sockets) socket.destroy();
  }
});
