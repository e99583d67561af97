/**
 * Attack: a backend that is killed during non-streamed answers, and backends that report wrong token counts.
 * Judged by: the answer that the caller gets, and its charge. The tests run concurrently, each with its own servers, since
 * the first mostly waits.
 */
import { type TestContext, test } from "vitest";
import { type Backend, startBackend } from "../support/backend-process.ts";
import { type FakeBackend, startFakeBackend } from "../support/fake-backend.ts";
import { type AttackedEdge, BACKEND_SECRETS, startAttackedEdge } from "./edge.ts";

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

/** The usage after requests without a backend, sent later, have been counted: by then earlier use has been counted too. */
async function settledUsage({ expect }: TestContext, edge: AttackedEdge): Promise<Usage> {
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

async function startFaultyBackend(
  { onTestFinished }: TestContext,
  fault: Parameters<typeof startFakeBackend>[0],
): Promise<FakeBackend> {
  const backend = await startFakeBackend({ stepMs: 2, ...fault });
  onTestFinished(() => backend.stop());
  return backend;
}

test.concurrent("a non-streamed answer whose only backend dies ends in a 503 or a closed connection, and is free", async (context) => {
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
  const made = () => backend.metric("vllm:generation_tokens_total");
  const madeBefore = await made();

  // More tokens than the backend buffers, so that some have reached the edge.
  const answer = edge.post("/v1/completions", "caller", { prompt: "Once", n: 16, max_tokens: 400 });
  await expect.poll(made, patience).toBeGreaterThan(madeBefore + 2000);
  backend.child.kill("SIGKILL");
  const killedMs = performance.now();
  // If the answer has begun by then, it can only fail by closing the connection.
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
  const usage = await settledUsage(context, edge);
  expect(usage.completion_tokens).toBe(before.completion_tokens);
});

test.concurrent.for([false, true])(
  "tokens beyond max_tokens are neither delivered nor charged; streamed: %s",
  async (stream, context) => {
    const { expect } = context;
    const edge = await startEdge(context, (await startFaultyBackend(context, { extraTokens: 20 })).url);
    const response = await edge.post("/v1/completions", "caller", { prompt: "Once", max_tokens: 4, stream });
    const text = await response.text();
    const told = [...text.matchAll(/"text":\s*"([^"]*)"/g)].map((match) => match[1]).join("");
    console.log(`${response.status}, ${told.length} characters: ${text.slice(0, 160)}`);
    // The backend violates the contract: a stream has its 4 tokens and then an error, a whole answer is a 503.
    expect([response.status, told.length]).toEqual(stream ? [200, 4] : [503, 0]);
    expect(text).toMatch(/"code":"backend_unavailable"/);
    expect((await settledUsage(context, edge)).completion_tokens).toBeLessThanOrEqual(4);
  },
);

test.concurrent("a backend that claims a negative number of tokens lowers no usage", async (context) => {
  const { expect } = context;
  const edge = await startEdge(context, (await startFaultyBackend(context, { completionTokens: -1_000_000 })).url);
  for (const stream of [false, true]) {
    const response = await edge.post("/v1/completions", "caller", { prompt: "Once", max_tokens: 4, stream });
    const text = await response.text();
    expect(response.status, text).toBe(stream ? 200 : 503);
    expect(text).toMatch(/"code":"backend_unavailable"/);
  }
  const { prompt_tokens, completion_tokens } = await settledUsage(context, edge);
  console.log(`charged ${prompt_tokens} prompt and ${completion_tokens} completion tokens`);
  // Of the stream what it was sent before.
  expect(completion_tokens).toBeGreaterThanOrEqual(0);
  expect(completion_tokens).toBeLessThanOrEqual(4);
  expect(prompt_tokens).toBeGreaterThan(0);
});

test.concurrent("a flood of /readyz makes a bounded number of calls to the backend", async (context) => {
  const { expect } = context;
  const backend = await startFaultyBackend(context, {});
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
