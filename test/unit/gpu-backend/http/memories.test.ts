/** Memories over HTTP: progress while one is built, its outcome, limits of bodies, and batches that name an unknown memory. */
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { MemoryService } from "../../../../gpu-backend/host/memories/service.ts";
import { type AppParts, createApp } from "../../../../gpu-backend/http/app.ts";
import { createMetrics } from "../../../../gpu-backend/http/metrics.ts";
import { callVerifier, type VerifyCall } from "../../../../gpu-backend/http/middleware.ts";
import { heartbeatMs } from "../../../../shared/contracts/inference.ts";
import { limits } from "../../../../shared/contracts/limits.ts";
import { ServiceError } from "../../../../shared/errors.ts";
import { sequenceRequest } from "../../../support/engine-harness.ts";
import { noEngine } from "../../../support/metrics-view.ts";

const [manifestHash, hash] = ["a".repeat(64), "b".repeat(64)];
const path = `/v1/memories/acme/${hash}`;
const body = { version: 4, manifestHash, documents: [{ name: "d", text: "t" }] };

let outcome: PromiseWithResolvers<number>;
let build: { tokens: number; totalTokens: number; computedTokens: number };
let begun: number;
let signal: AbortSignal;
let removed: (string | null)[][];
let there: string[];
let metrics: ReturnType<typeof createMetrics>;
const appWith = (verifyCall: VerifyCall | null) => {
  const memories = {
    async begin(...given: Parameters<MemoryService["begin"]>) {
      begun++;
      signal = given[3];
      return { build, ready: outcome.promise };
    },
    remove: async (...which: (string | null)[]) => void removed.push(which),
    store: { disk: { fault: null }, has: async (tenant: string, one: string) => there.includes(`${tenant}/${one}`) },
  };
  const engine = { info: null, submit: () => {}, cancel: () => [] };
  const parts = {
    ...{ name: "b-0", memories, metrics, verifyCall, log: () => {}, now: () => 0 },
    ...{ load: () => ({ sequences: 0, slots: 1 }), sets: { of: () => ({ engine }) }, adapters: memories },
  };
  return createApp(parts as unknown as AppParts);
};
const put = (given: unknown = body, to = path) =>
  appWith(null).request(to, { method: "PUT", body: JSON.stringify(given) });
const metric = async (name: string) => new RegExp(`^${name} (.*)$`, "m").exec(await metrics.text())?.[1];

beforeEach(() => {
  vi.useFakeTimers();
  [begun, removed, there, metrics] = [0, [], [], createMetrics(noEngine)];
  outcome = Promise.withResolvers();
  build = { tokens: 0, totalTokens: 90, computedTokens: 0 };
});
afterEach(() => void vi.useRealTimers());

test("a line of progress comes at once and in each interval, then the memory is ready", async () => {
  const reader = (await put()).body!.pipeThrough(new TextDecoderStream()).getReader();
  const next = async () => (await reader.read()).value;
  expect(await next()).toBe('{"type":"progress","tokens":0,"totalTokens":90}\n');
  for (const tokens of [0, 30, 60]) {
    build.tokens = tokens;
    await vi.advanceTimersByTimeAsync(heartbeatMs);
    expect(await next()).toBe(`{"type":"progress","tokens":${tokens},"totalTokens":90}\n`);
  }
  build.computedTokens = 50;
  outcome.resolve(700);
  expect(await next()).toBe('{"type":"ready","tokens":90,"bytes":700,"computedTokens":50}\n');
  expect((await reader.read()).done).toBe(true);
  expect(vi.getTimerCount()).toBe(0);
  expect(await metric('chameleon_memory_builds_total\\{outcome="ready"\\}')).toBe("1");
  expect(await metric("chameleon_memory_built_tokens_total")).toBe("50");
});

test("a build that fails says why on its last line", async () => {
  const response = await put();
  outcome.reject(new ServiceError("overloaded", "later", { retryAfterSeconds: 3 }));
  const lines = (await response.text()).trim().split("\n");
  const error = { type: "error", kind: "overloaded", message: "later", retryAfterSeconds: 3 };
  expect(JSON.parse(lines.at(-1)!)).toEqual(error);
  expect(await metric('chameleon_memory_builds_total\\{outcome="overloaded"\\}')).toBe("1");
});

test("a caller that leaves ends its build", async () => {
  const response = await put();
  expect(signal.aborted).toBe(false);
  await response.body!.cancel();
  expect(signal.aborted).toBe(true);
  outcome.reject(new Error("cancelled"));
  await vi.advanceTimersByTimeAsync(0);
  expect(vi.getTimerCount()).toBe(0);
});

test("invalid bodies, names and hashes are refused before a memory is begun", async () => {
  expect((await put({ ...body, documents: [] })).status).toBe(400);
  for (const to of ["acme/..%2f..%2fkey", `..%2facme/${hash}`]) {
    const refused = await put(body, `/v1/memories/${to}`);
    expect([refused.status, await refused.json()]).toMatchObject([404, { error: { code: "memory_not_found" } }]);
  }
  expect(begun).toBe(0);
});

test("documents may have 32 MB, other bodies what they had; unsigned calls read nothing of them", async () => {
  const documents = [{ name: "d", text: "x".repeat(limits.documentBodyBytes - 1000) }];
  outcome.resolve(1);
  expect((await put({ ...body, documents })).status).toBe(200);
  const tooLong = [{ name: "d", text: "x".repeat(limits.documentBodyBytes) }];
  const refused = await put({ ...body, documents: tooLong });
  expect(refused.status).toBe(413);
  expect(await refused.text()).toContain(`more than ${limits.documentBodyBytes} bytes`);
  expect((await put("x".repeat(9 * 2 ** 20), `/v1/adapters/acme/${hash}`)).status).toBe(413);
  const verifyCall = callVerifier(["secret-of-sixteen-or-more"], () => 0);
  const unsigned = await appWith(verifyCall).request(path, { method: "PUT", body: JSON.stringify(body) });
  expect(unsigned.status).toBe(401);
});

test("a batch is refused if one of its memories is not there for the sequence's own tenant", async () => {
  there = [`acme/${hash}`];
  const send = (...tenants: string[]) => {
    const sequences = tenants.map((tenant, i) => sequenceRequest(`s${i}`, [1], { tenant, memories: [{ hash }] }));
    const batch = { version: 4, manifestHash, centroidId: null, sequences };
    const headers = { "content-type": "application/json" };
    return appWith(null).request("/v1/batches", { method: "POST", headers, body: JSON.stringify(batch) });
  };
  expect((await send("acme")).status).toBe(200);
  const refused = await send("acme", "other");
  expect([refused.status, await refused.json()]).toMatchObject([404, { error: { code: "memory_not_found" } }]);
});
