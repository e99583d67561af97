import { connect, type Socket } from "node:net";
import OpenAI from "openai";
import { beforeEach, expect, test, vi } from "vitest";
import type { WorkerdProcess } from "../../infra/workerd/process.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { type FloodBackend, startFloodBackend } from "../support/flood-backend.ts";
import { type HeapWatch, watchHeap } from "../support/live-heap.ts";
import { startEdge } from "../support/stack.ts";

const BACKEND_SECRETS = "readers-0123456789abcdef0123456789abcdef";
const keys = { slow: "sk-chameleon-slow", other: "sk-chameleon-other" };
const slowClients = 24;

let backend: FloodBackend;
let edge: WorkerdProcess;

beforeEach(async () => {
  backend = await startFloodBackend();
  const vars = { BACKEND_SECRETS, BACKEND_URLS: backend.url };
  const tenants = Object.fromEntries(Object.entries(keys).map(([tenant, key]) => [key, tenant]));
  edge = await startEdge({ vars, keys: tenants }, { isInspected: true });
  return async () => {
    await edge.stop();
    await backend.stop();
  };
});

type Tenant = keyof typeof keys;

function post(tenant: Tenant, route: string, body: object): Promise<Response> {
  return fetch(edge.url + route, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${keys[tenant]}` },
    body: JSON.stringify(body),
  });
}

/** Sends a request on its own socket and never reads from it. */
function unread(route: string, body: object): Socket {
  const { host, hostname, port } = new URL(edge.url);
  const text = JSON.stringify(body);
  const head = [
    `POST ${route} HTTP/1.1`,
    `host: ${host}`,
    `authorization: Bearer ${keys.slow}`,
    "content-type: application/json",
    `content-length: ${Buffer.byteLength(text)}`,
  ];
  const socket = connect(Number(port), hostname).pause();
  socket.on("error", () => undefined);
  socket.write(`${head.join("\r\n")}\r\n\r\n${text}`);
  return socket;
}

async function completionTokens(tenant: Tenant): Promise<number> {
  const response = await fetch(`${edge.url}/v1/usage`, { headers: { authorization: `Bearer ${keys[tenant]}` } });
  return ((await response.json()) as { total: { completion_tokens: number } }).total.completion_tokens;
}

const patience = { timeout: 60_000, interval: 50 };
const batchesEnded = () =>
  vi.waitFor(() => expect(backend.batches.every(({ end }) => end !== null)).toBe(true), patience);
const quick = { model: "gpt2", prompt: "Hello", max_tokens: 4 };
/** The options with the largest events of a chat. */
const largest = { logprobs: true, top_logprobs: limits.chatLogprobs, chameleon: { compare: true } };
const messages = [{ role: "user", content: "Tell me all that you know." }];

async function withHeap(work: (watch: HeapWatch) => Promise<void>): Promise<void> {
  const watch = await watchHeap([edge.inspector!("edge")], async () => {
    await (await post("other", "/v1/completions", quick)).text();
  });
  try {
    await work(watch);
  } finally {
    watch.close();
  }
}

test("clients that never read a stream: batches are cancelled, the edge holds at most 64 MB, and others are served", async () => {
  await withHeap(async (watch) => {
    const before = await watch.live();
    const sockets = Array.from({ length: slowClients }, (_, seed) =>
      unread("/v1/chat/completions", {
        model: "gpt2",
        messages,
        n: limits.choicesPerPrompt,
        stream: true,
        seed,
        ...largest,
      }),
    );
    await vi.waitFor(() => expect(sequencesOf(sockets.length)).toBe(true), patience);
    expect((await post("other", "/v1/completions", quick)).status).toBe(200);
    await batchesEnded();
    const cancelled = backend.batches.filter(({ end }) => end === "cancelled");
    expect(cancelled.length).toBeGreaterThan(0);
    const during = await watch.live();
    const grownMb = (during.heap + during.buffers - before.heap - before.buffers) / 2 ** 20;
    console.log(`${sockets.length} unread streams: ${grownMb.toFixed(1)} MB more are in memory`);
    expect(grownMb).toBeLessThan(64);
    for (const socket of sockets) socket.destroy();
  });
});

/** True when all choices of `requests` requests have reached the backend. */
function sequencesOf(requests: number): boolean {
  const sequences = backend.batches.flatMap(({ request }) => request.sequences);
  return sequences.filter(({ tenant }) => tenant === "slow").length === requests * limits.choicesPerPrompt;
}

test("clients that never read a whole answer of the largest size: the edge holds 64 MB at most, others are served", async () => {
  await withHeap(async (watch) => {
    const before = await watch.live();
    const perToken = 2 + limits.chatLogprobs;
    const max_tokens = Math.floor(limits.wholeLogprobs / limits.choicesPerPrompt / perToken);
    const body = { model: "gpt2", messages, n: limits.choicesPerPrompt, ...largest };
    const refused = await post("slow", "/v1/chat/completions", { ...body, max_tokens: max_tokens + 1 });
    expect(refused.status).toBe(400);
    const { error } = (await refused.json()) as { error: { message: string } };
    expect(error.message).toContain(String(limits.wholeLogprobs));
    expect(error.message).toContain(String((max_tokens + 1) * limits.choicesPerPrompt * perToken));
    const sockets = Array.from({ length: slowClients }, (_, seed) =>
      unread("/v1/chat/completions", { ...body, max_tokens, seed }),
    );
    await vi.waitFor(() => expect(sequencesOf(sockets.length)).toBe(true), patience);
    expect((await post("other", "/v1/completions", quick)).status).toBe(200);
    await batchesEnded();
    const during = await watch.live();
    const grownMb = (during.heap + during.buffers - before.heap - before.buffers) / 2 ** 20;
    console.log(`${sockets.length} unread answers: ${grownMb.toFixed(1)} MB more are in memory`);
    expect(grownMb).toBeLessThan(64);
    for (const socket of sockets) socket.destroy();
  });
});

test.each(["a closed connection", "a reset connection"])(
  "a client that leaves a whole answer (%s) stops its work, and pays for what was computed",
  async (how) => {
    // A whole answer takes 10 s at least.
    backend.stepMs = 25;
    const socket = unread("/v1/completions", { model: "gpt2", prompt: "Hello", n: 16, max_tokens: 400 }).resume();
    // Several steps, so that the edge has received tokens, too.
    await vi.waitFor(() => expect(backend.batches[0]?.tokens).toBeGreaterThan(4 * 16), patience);
    if (how === "a closed connection") socket.destroy();
    else socket.resetAndDestroy();
    await batchesEnded();
    const [{ end, tokens }] = backend.batches;
    expect(end).toBe("cancelled");
    expect(tokens).toBeLessThan((16 * 400) / 2);
    await vi.waitFor(async () => expect(await completionTokens("slow")).toBeGreaterThan(0), patience);
    expect(await completionTokens("slow")).toBeLessThanOrEqual(tokens);
  },
);

test("a whole answer that takes long is white space and JSON; one that fails breaks off, and costs nothing", async () => {
  backend.stepMs = 10;
  const body = { model: "gpt2", prompt: "Hello", n: 2, max_tokens: 100 };
  // Its status comes before it is over, however busy the machine.
  const broken = await post("slow", "/v1/completions", { ...body, max_tokens: 800 });
  backend.isDead = true;
  expect(broken.status).toBe(200);
  await expect(broken.text()).rejects.toThrow();
  backend.isDead = false;
  const good = await post("slow", "/v1/completions", body);
  const text = await good.text();
  expect([good.status, good.headers.get("content-length"), text.slice(0, 1)]).toEqual([200, null, " "]);
  expect(JSON.parse(text).usage.completion_tokens).toBe(200);
  const openai = new OpenAI({ baseURL: `${edge.url}/v1`, apiKey: keys.other, maxRetries: 0 });
  expect((await openai.completions.create(body)).usage?.completion_tokens).toBe(200);
  await vi.waitFor(async () => expect(await completionTokens("slow")).toBeGreaterThan(0), patience);
  expect(await completionTokens("slow")).toBe(200);
});

test("an answer that fails before it has begun has a status, and costs nothing", async () => {
  const tokens = Promise.withResolvers<void>();
  backend.held = tokens.promise;
  const pending = post("slow", "/v1/completions", { model: "gpt2", prompt: "Hello", n: 16, max_tokens: 400 });
  await vi.waitFor(() => expect(backend.batches).toHaveLength(1), patience);
  backend.isDead = true;
  tokens.resolve();
  expect((await pending).status).toBe(503);
  expect(await completionTokens("slow")).toBe(0);
});
