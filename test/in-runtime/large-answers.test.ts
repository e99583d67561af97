/** Large answers of the Worker itself: the bytes they hold, what ends them, and when they stop counting as open. */
import { describe, expect, test, vi } from "vitest";
import { AnswerBodies } from "../../edge/answer/answer-body.ts";
import type { UsageRow } from "../../edge/tenants/ledger-store.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { plans } from "../../shared/contracts/tenants.ts";
import { expectError } from "./answers.ts";
import { accessWith, testApp } from "./harness.ts";

const rows = Array.from(
  { length: 5000 },
  (_, i): UsageRow => ({
    ...{ day: "2026-11-01", model: `gpt2:c${i}`, centroid: `c${i}` },
    ...{ requests: 1, promptTokens: i, completionTokens: 2 },
  }),
);

function appWith(maximumBytes?: number, concurrentRequests: number | null = null) {
  const bodies = new AnswerBodies({ maximumBytes, ofRequests: true });
  const access = accessWith({ limits: { ...plans.unlimited, concurrentRequests } });
  const keys = { accessOf: async () => access };
  const asset = async () => new Response(new Uint8Array(300_000).fill(97));
  return { bodies, ...testApp({ bodies, keys, asset, usage: async () => rows }) };
}

const large = { input: Array(limits.embeddingInputs).fill("ab") };
async function begun(response: Response) {
  expect(response.status).toBe(200);
  const reader = response.body!.getReader();
  await reader.read();
  return reader;
}

describe.each<[string, (app: ReturnType<typeof appWith>) => Promise<Response>]>([
  ["embeddings", (app) => app.post("/v1/embeddings", large)],
  ["usage", (app) => app.request("/v1/usage")],
  ["the API's document", (app) => app.request("/openapi.json")],
])("a large answer of %s", (what, send) => {
  const tenant = what === "the API's document" ? "" : "local";

  test("is the whole answer, and holds nothing once it is read", async () => {
    const app = appWith();
    const response = await send(app);
    expect(app.bodies.countOf(tenant)).toBe(1);
    const text = await response.text();
    expect(text.length).toBeGreaterThan(64 * 1024);
    if (tenant !== "") expect(JSON.parse(text)).toMatchObject({ object: "list", data: expect.any(Array) });
    await vi.waitFor(() => expect([app.bodies.countOf(tenant), app.bodies.heldBytes]).toEqual([0, 0]));
  });

  test("is made as it is read, and ends with its client", async () => {
    const app = appWith();
    const reader = await begun(await send(app));
    const retained = { embeddings: limits.embeddingInputs * 256, usage: rows.length * 256 }[what] ?? 0;
    expect(app.bodies.heldBytes).toBeLessThan(retained + 3 * 64 * 1024);
    await reader.cancel();
    await vi.waitFor(() => expect([app.bodies.countOf(tenant), app.bodies.heldBytes]).toEqual([0, 0]));
  });

  test("is refused and costs nothing if the tenant's answers hold too much", async () => {
    const app = appWith(100_000);
    await expectError(send(app), { status: 429 });
    expect([app.bodies.countOf(tenant), app.reported]).toEqual([0, []]);
  });
});

test("of embeddings is charged when it has ended, whether or not it is read", async () => {
  const app = appWith();
  const response = await app.post("/v1/embeddings", large);
  expect(app.reported).toEqual([]);
  await (await begun(response)).cancel();
  await vi.waitFor(() => expect(app.reported).toHaveLength(1));
  expect(app.reported[0][1]).toMatchObject({ requests: 1, promptTokens: 2 * limits.embeddingInputs });
});

test("unread answers to GET are at most as many as requests at once", async () => {
  const app = appWith(undefined, 2);
  const readers = [await begun(await app.request("/v1/usage")), await begun(await app.request("/v1/usage"))];
  await expectError(app.request("/v1/usage"), { status: 429, mentions: "2" });
  await readers[0].cancel();
  await vi.waitFor(async () => expect((await app.request("/v1/usage", { method: "HEAD" })).status).toBe(200));
  await vi.waitFor(() => expect(app.bodies.countOf("local")).toBe(1));
  await (await app.request("/v1/usage")).text();
  await readers[1].cancel();
});
