/**
 * Attack: the misfortune of a backend that is killed in the middle of whole answers, and backends that lie about what they
 * made. Judged by: what the caller gets, and what it is charged. At the same time, each with servers of its own: the first
 * mostly waits.
 */
import { type TestContext, test } from "vitest";
import { type Backend, startBackend } from "../support/backend-process.ts";
import { type AttackedEdge, BACKEND_SECRETS, startAttackedEdge } from "./edge.ts";
import { type FakeBackend, startFakeBackend } from "./fake-backend.ts";

const patience = { timeout: 30_000, interval: 20 };

interface Usage {
  requests: number;
  prompt_tokens: number;
  completion_tokens: number;
}

async function usageOf(edge: AttackedEdge): Promise<Usage> {
  const response = await edge.get("/v1/usage", "caller");
  const { requests, prompt_tokens, completion_tokens } = ((await response.json()) as { total: Usage }).total;
  return { requests, prompt_tokens, completion_tokens };
}

/** What is counted once it has stood still for some rounds of requests that need no backend, and are counted themselves. */
async function later({ expect }: TestContext, edge: AttackedEdge): Promise<Usage> {
  const { requests } = await usageOf(edge);
  const markers = 20;
  for (let i = 0; i < markers; i++) {
    const marker = await edge.post("/v1/embeddings", "caller", { model: "gpt2", input: "a" });
    expect(marker.status, await marker.text()).toBe(200);
  }
  await expect.poll(async () => (await usageOf(edge)).requests, patience).toBeGreaterThan(requests + markers - 1);
  return usageOf(edge);
}

async function startEdge({ onTestFinished }: TestContext, backendUrl: string): Promise<AttackedEdge> {
  const edge = await startAttackedEdge({ backendUrls: [backendUrl], tenants: { caller: {} } });
  onTestFinished(() => edge.stop());
  return edge;
}

async function startLiar(
  { onTestFinished }: TestContext,
  lie: Parameters<typeof startFakeBackend>[0],
): Promise<FakeBackend> {
  const backend = await startFakeBackend({ stepMs: 2, ...lie });
  onTestFinished(() => backend.stop());
  return backend;
}

test.concurrent("a whole answer whose only backend dies ends in a 503 or breaks off, and costs no completion token", async (context) => {
  const { expect, onTestFinished } = context;
  const backend: Backend = await startBackend({ BACKEND_SECRETS, THREADS: "1" });
  onTestFinished(async () => {
    backend.child.kill("SIGKILL");
    await backend.exited;
  });
  const edge = await startEdge(context, backend.url);
  const warm = await edge.post("/v1/completions", "caller", { prompt: "Once", max_tokens: 3, temperature: 0 });
  expect(warm.status, await warm.text()).toBe(200);
  await expect.poll(async () => (await usageOf(edge)).requests, patience).toBe(1);
  const before = await usageOf(edge);
  const made = () => backend.metric("chameleon_sampled_tokens_total");
  const madeBefore = await made();

  // What waits at the backend to travel together is nobody's loss; enough to have arrived at the edge.
  const answer = edge.post("/v1/completions", "caller", { prompt: "Once", n: 16, max_tokens: 400 });
  await expect.poll(made, patience).toBeGreaterThan(madeBefore + 2000);
  backend.child.kill("SIGKILL");
  const killedMs = performance.now();
  // An answer that takes long has begun by then, so that its only way to fail is to break off.
  const response = await answer;
  const ended = await response.text().then(
    (text) => text,
    () => "broken off",
  );
  const afterMs = performance.now() - killedMs;
  console.log(`${response.status}, ${ended.slice(0, 100)} ${afterMs.toFixed(0)} ms after its backend died`);
  if (response.status === 200) expect(ended).toBe("broken off");
  else {
    expect(response.status, ended).toBe(503);
    expect(response.headers.get("retry-after")).toMatch(/^\d+$/);
  }
  const usage = await later(context, edge);
  expect(usage.completion_tokens).toBe(before.completion_tokens);
});

test.concurrent.for([false, true])(
  "tokens beyond max_tokens reach no client and no bill; streamed: %s",
  async (stream, context) => {
    const { expect } = context;
    const edge = await startEdge(context, (await startLiar(context, { extraTokens: 20 })).url);
    const response = await edge.post("/v1/completions", "caller", { prompt: "Once", max_tokens: 4, stream });
    const text = await response.text();
    const told = [...text.matchAll(/"text":\s*"([^"]*)"/g)].map((match) => match[1]).join("");
    console.log(`${response.status}, ${told.length} characters: ${text.slice(0, 160)}`);
    // A backend that breaks its contract is not believed: a stream has its 4 tokens and then an error, a whole answer is a 503.
    expect([response.status, told.length]).toEqual(stream ? [200, 4] : [503, 0]);
    expect(text).toMatch(/"code":"backend_unavailable"/);
    expect((await later(context, edge)).completion_tokens).toBeLessThanOrEqual(4);
  },
);

test.concurrent("a backend that claims a negative number of tokens lowers no usage", async (context) => {
  const { expect } = context;
  const edge = await startEdge(context, (await startLiar(context, { completionTokens: -1_000_000 })).url);
  for (const stream of [false, true]) {
    const response = await edge.post("/v1/completions", "caller", { prompt: "Once", max_tokens: 4, stream });
    const text = await response.text();
    expect(response.status, text).toBe(stream ? 200 : 503);
    expect(text).toMatch(/"code":"backend_unavailable"/);
  }
  const { prompt_tokens, completion_tokens } = await later(context, edge);
  console.log(`charged ${prompt_tokens} prompt and ${completion_tokens} completion tokens`);
  // Of the stream what it was sent before.
  expect(completion_tokens).toBeGreaterThanOrEqual(0);
  expect(completion_tokens).toBeLessThanOrEqual(4);
  expect(prompt_tokens).toBeGreaterThan(0);
});

test.concurrent("a flood of /readyz makes a bounded number of calls to the backend", async (context) => {
  const { expect } = context;
  const backend = await startLiar(context, {});
  const edge = await startEdge(context, backend.url);
  const { readinessCalls: before } = await backend.counts();
  const asked = 300;
  const startedMs = performance.now();
  const statuses = await Promise.all(
    Array.from({ length: asked }, async () => {
      const response = await fetch(`${edge.url}/readyz`);
      await response.text();
      return response.status;
    }),
  );
  const seconds = (performance.now() - startedMs) / 1000;
  const { readinessCalls } = await backend.counts();
  console.log(`${asked} calls of /readyz: ${readinessCalls - before} calls to the backend`);
  expect(new Set(statuses)).toEqual(new Set([200]));
  // One a second, the first at once.
  expect(readinessCalls - before).toBeLessThanOrEqual(1 + seconds);
});
