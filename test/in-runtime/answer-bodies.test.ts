/** Answer bodies: what they hold in memory, what ends them, and what is charged for them. */
import { runInDurableObject } from "cloudflare:test";
import { describe, expect, test, vi } from "vitest";
import { AnswerBodies, type AnswerBody } from "../../edge/answer/answer-body.ts";
import type { EndReason } from "../../edge/answer/answer-end.ts";
import type { Cell } from "../../edge/cell/cell.ts";
import { errorFrame } from "../../shared/contracts/inference.ts";
import { limits } from "../../shared/contracts/limits.ts";
import { ServiceError } from "../../shared/errors.ts";
import { doneFrame, tokenFrame } from "../support/frames.ts";
import { eventsOf, expectError } from "./answers.ts";
import { backendAnswers, backendStreams, framesStream, lateBackend } from "./backend.ts";
import { cellsWith, recordedAdmissions, testApp } from "./harness.ts";
import { artifactsWith } from "./model.ts";
import { cellIsIdle, localCell, reportedByCells } from "./objects.ts";

const heldByCell = () => runInDurableObject(localCell(), ({ bodies }: Cell) => bodies.heldBytes);

/** Completion tokens that were charged, once the cell has reported all settlements. */
async function chargedBy(reported: Awaited<ReturnType<typeof reportedByCells>>): Promise<number> {
  await vi.waitFor(() =>
    runInDurableObject(localCell(), ({ settlements }: Cell) => expect(settlements.idle).toBe(true)),
  );
  return reported()
    .flatMap(([, ...consumed]) => consumed)
    .reduce((sum, { completionTokens }) => sum + completionTokens, 0);
}

const scored = (id: string, index: number, top: number) => ({
  ...tokenFrame(id, index, 98),
  ...{ logprob: -0.5, alternatives: Array.from({ length: top }, (_, i): [number, number] => [97 + i, -1 - i / 7]) },
});

/** A backend for one call. `started` resolves to the ids of the sequences that the backend has received. */
function oneCall() {
  const { bodies, seen } = lateBackend(1);
  const started = async (body: object, app = testApp({ heartbeatMs: 60_000 }), init?: RequestInit) => {
    const pending = Promise.resolve(app.complete({ prompt: "aaa", ...body }, init));
    await vi.waitFor(() => expect(seen.batches).toHaveLength(1));
    return { pending, ids: seen.batches[0].sequences.map(({ id }) => id) };
  };
  return { backend: bodies[0], started };
}

/** `told` records what the body reports: an overflow, and its end. */
function opened(bodies: AnswerBodies, tenant: string, options: { maximumBytes?: number; isStream?: boolean } = {}) {
  const { maximumBytes = 1000, isStream = true } = options;
  const told: { overflow: ServiceError | null; ended: EndReason | null } = { overflow: null, ended: null };
  const heartbeat = isStream ? { text: ":\n\n", everyMs: 60_000 } : null;
  const body: AnswerBody = bodies.open(
    { tenant, maximumBytes, heartbeat },
    {
      settled: () => undefined,
      errorText(error) {
        told.overflow = error;
        return "why";
      },
      ended(reason) {
        told.ended = reason;
      },
    },
  );
  return { body, told, text: () => new Response(body.readable).text() };
}

describe("a body", () => {
  test("that nobody reads ends in an error after a time, and breaks off after as long again", () => {
    const bodies = new AnswerBodies();
    const { body, told } = opened(bodies, "a");
    body.write("x");
    const ticks = limits.unreadMs / 50;
    for (let i = 1; i < ticks; i++) body.tick();
    expect(told).toEqual({ overflow: null, ended: null });
    body.tick();
    expect(told.overflow).toMatchObject({ kind: "cancelled", message: expect.stringContaining(`${limits.unreadMs}`) });
    for (let i = 1; i < ticks; i++) body.tick();
    expect(told.ended).toBeNull();
    body.tick();
    expect([told.ended, bodies.heldBytes]).toEqual(["limit", 0]);
  });
});

test("if an object's bodies hold too much, the largest body of the tenant that holds most ends, however many others hold a little", async () => {
  const bodies = new AnswerBodies({ maximumBytes: 10_000 });
  const options = { maximumBytes: 10 ** 6 };
  const small = Array.from({ length: 3 }, () => opened(bodies, "small", { ...options, isStream: false }));
  for (const { body } of small) body.setPendingBytes(1000, true);
  const write = (bytes: number, parts: number) => {
    const one = opened(bodies, "large", options);
    for (let i = 0; i < parts; i++) one.body.write("x".repeat(bytes / parts));
    return one;
  };
  const [larger, large] = [write(6000, 2), write(900, 1)];
  expect(larger.told.overflow).toBeNull();
  small[0].body.setPendingBytes(1200, true);
  expect(larger.told.overflow).toMatchObject({ kind: "overloaded", message: expect.stringContaining("10000") });
  // The larger body does not end: the runtime has read its bytes, so the client may still get them.
  expect([larger.told.ended, bodies.heldBytes]).toEqual([null, 3000 + "why".length + 900 + 3200]);
  // A body breaks off if the bytes that the runtime has read from it exceed the limit.
  const largest = write(9000, 1);
  expect(largest.told).toMatchObject({ overflow: { kind: "overloaded" }, ended: "limit" });
  expect(bodies.heldBytes).toBe(3000 + "why".length + 900 + 3200);
  // A body breaks off if the rest of a begun text exceeds the limit.
  const begun = write(40_000, 1);
  expect(begun.told).toMatchObject({ overflow: { kind: "overloaded" }, ended: "limit" });
  expect(bodies.heldBytes).toBe(3000 + "why".length + 900 + 3200);
  expect([large, ...small].map(({ told }) => told.overflow)).toEqual([null, null, null, null]);
});

describe("streams that nobody reads, with the largest answers", () => {
  const clients = 4;
  const [choices, top] = [limits.choicesPerPrompt, limits.chatLogprobs];
  test("are cancelled, hold no more than their limit, and end in an error that names it; a client that reads is served", async () => {
    const { bodies, seen } = lateBackend(clients + 1);
    const reported = await reportedByCells();
    const artifacts = artifactsWith(false, { chatTemplate: "{{ messages[0].content }}" });
    const app = testApp({ artifacts });
    const chat = { messages: [{ role: "user", content: "aaa" }], n: choices, max_tokens: 40, stream: true };
    const slow: Response[] = [];
    for (let i = 0; i < clients; i++) {
      slow.push(await app.post("/v1/chat/completions", { ...chat, logprobs: true, top_logprobs: top }));
      await vi.waitFor(() => expect(seen.batches).toHaveLength(i + 1));
    }
    const other = app.complete({ prompt: "aaa", stream: true });
    await vi.waitFor(() => expect(seen.batches).toHaveLength(clients + 1));
    let sent = 0;
    let held = 0;
    for (let token = 0; token < 40 && !bodies.slice(0, clients).every(({ cancelled }) => cancelled); token++) {
      for (const [i, body] of bodies.slice(0, clients).entries()) {
        if (body.cancelled) continue;
        const { sequences } = seen.batches[i];
        body.send(...sequences.map(({ id }) => scored(id, token, top)));
        sent += sequences.length;
        await vi.waitFor(() => expect(body.isTaken || body.cancelled).toBe(true));
      }
      held = Math.max(held, await heldByCell());
    }
    expect(held).toBeGreaterThan((clients * limits.unreadBytes) / 4);
    expect(held).toBeLessThanOrEqual(clients * limits.unreadBytes);
    expect(bodies.slice(0, clients).map(({ cancelled }) => cancelled)).toEqual(slow.map(() => true));
    const otherId = seen.batches[clients].sequences[0].id;
    bodies[clients].send(tokenFrame(otherId, 0, 98), doneFrame(otherId));
    expect((await eventsOf(other)).at(-1)).toBe("[DONE]");
    for (const response of slow) {
      const data = await eventsOf(response);
      const error = { code: "cancelled", message: expect.stringContaining(String(limits.unreadBytes)) };
      expect(data.slice(-2)).toMatchObject([{ error }, "[DONE]"]);
    }
    await vi.waitFor(async () => expect(await cellIsIdle()).toBe(true));
    expect(await heldByCell()).toBe(0);
    const charged = await chargedBy(reported);
    expect(charged).toBeGreaterThan(sent - 3 * clients * choices);
    expect(charged).toBeLessThanOrEqual(sent + 1);
  });

  test("a prompt of which every choice repeats all logprobs comes whole to a client that reads", async () => {
    const prompt = "a".repeat(47);
    backendAnswers(({ id, promptIds, promptLogprobs }) => {
      const { alternatives } = scored(id, 0, 5);
      const logprobs = promptIds.map((_, i) => (i === 0 ? null : -1 / 7));
      const prompt = { type: "prompt" as const, id, logprobs, alternatives: promptIds.map(() => alternatives) };
      return [...(promptLogprobs ? [prompt] : []), tokenFrame(id, 0, 98), doneFrame(id)];
    });
    const body = { prompt: Array(8).fill(prompt), n: choices, max_tokens: 1, echo: true, logprobs: 5 };
    const stream = await (await testApp().complete({ ...body, stream: true })).text();
    expect(stream.length).toBeGreaterThan(limits.unreadBytes);
    const data = (await eventsOf<{ choices: { text: string }[] }>(new Response(stream))).slice(0, -1);
    expect(data.filter(({ choices: [{ text }] }) => text === prompt)).toHaveLength(8 * choices);
  });
});

describe("a whole answer", () => {
  /** An unstreamed answer of `n` choices that has begun: tokens were sent until its heartbeat. */
  async function begun(n: number) {
    const { backend, started } = oneCall();
    const app = testApp({ heartbeatMs: 5 });
    const { pending, ids } = await started({ n, max_tokens: 45 }, app);
    let isAnswered = false;
    void pending.finally(() => {
      isAnswered = true;
    });
    let sent = 0;
    const send = async () => {
      backend.send(...ids.map((id) => tokenFrame(id, sent, 98)));
      sent++;
      await vi.waitFor(() => expect(backend.isTaken || backend.cancelled).toBe(true));
    };
    while (!isAnswered && sent < 40) await send();
    const response = await pending;
    expect([response.status, response.headers.get("content-type")]).toEqual([200, "application/json"]);
    expect(response.headers.has("content-length")).toBe(false);
    return { app, backend, ids, send, response, sent: () => sent };
  }

  test("that takes longer begins with white space, and is the same JSON", async () => {
    const { backend, ids, send, response, sent } = await begun(2);
    await send();
    backend.send(...ids.map((id) => ({ ...doneFrame(id), completionTokens: sent() })));
    const text = await response.text();
    expect(text).toMatch(/^ +\{/);
    const { choices, usage } = JSON.parse(text);
    expect(choices.map(({ text }: { text: string }) => text)).toEqual(["b".repeat(sent()), "b".repeat(sent())]);
    expect(usage.completion_tokens).toBe(2 * sent());
    await vi.waitFor(async () => expect(await heldByCell()).toBe(0));
  });

  test("whose client goes away stops at the backend with the next tokens, and is charged for until then", async () => {
    const reported = await reportedByCells();
    const { backend, send, response, sent } = await begun(2);
    await response.body!.cancel();
    while (!backend.cancelled && sent() < 44) await send();
    expect(backend.cancelled).toBe(true);
    await vi.waitFor(async () => expect(await cellIsIdle()).toBe(true));
    const charged = await chargedBy(reported);
    expect(charged).toBeGreaterThan(0);
    expect(charged).toBeLessThanOrEqual(2 * sent());
    expect(await heldByCell()).toBe(0);
  });

  test("that fails after it has begun breaks off, and costs nothing", async () => {
    const reported = await reportedByCells();
    const { app, backend, response } = await begun(2);
    backend.end("fail");
    await expect(response.text()).rejects.toThrow();
    expect(await chargedBy(reported)).toBe(0);
    await vi.waitFor(() => expect(app.logged).toEqual([expect.stringMatching(/^backend_unavailable/)]));
    expect(await heldByCell()).toBe(0);
  });

  test("that fails before it has begun has an error status, and costs nothing, whatever was computed", async () => {
    const { backend, started } = oneCall();
    const reported = await reportedByCells();
    const { pending, ids } = await started({ n: 2, max_tokens: 9 });
    for (const id of ids) for (let i = 0; i < 8; i++) backend.send(tokenFrame(id, i, 98));
    backend.end("fail");
    await expectError(pending, { status: 503 });
    expect(await chargedBy(reported)).toBe(0);
  });
});

describe("an answer that ends because of its own caller is charged what was computed", () => {
  test.each([false, true])("where a choice misses the caller's deadline; streamed: %s", async (stream) => {
    const { backend, started } = oneCall();
    const reported = await reportedByCells();
    const init = { headers: { "x-deadline-ms": "600000" } };
    const { pending, ids } = await started({ n: 2, max_tokens: 9, stream }, testApp(), init);
    for (let i = 0; i < 8; i++) backend.send(tokenFrame(ids[0], i, 98));
    backend.send(errorFrame(ids[1], new ServiceError("deadline_exceeded", "late")));
    const response = await pending;
    expect(response.status).toBe(stream ? 200 : 504);
    expect(await response.text()).toContain("deadline_exceeded");
    expect(await chargedBy(reported)).toBe(8);
  });

  test("where the tenant's answers hold more than their object may", async () => {
    backendAnswers(({ id }) => Array.from({ length: 20 }, (_, index) => scored(id, index, 5)));
    const { settled, admission } = recordedAdmissions();
    const app = testApp({ cells: cellsWith({}, { bodies: new AnswerBodies({ maximumBytes: 3000 }), admission }) });
    const refused = app.complete({ prompt: "aaa", max_tokens: 20, logprobs: 5 });
    await expectError(refused, { status: 429, code: "overloaded" });
    expect(settled).toMatchObject([[{ promptTokens: 3, completionTokens: expect.any(Number) }]]);
    expect(settled[0][0].completionTokens).toBeGreaterThan(2);
  });
});

test("an answer that waits for its first token renews its admission", async () => {
  const { backend, started } = oneCall();
  let renewed = 0;
  const admission = { ...recordedAdmissions(true).admission, renew: () => void renewed++ };
  const { pending, ids } = await started({}, testApp({ cells: cellsWith({}, { admission }) }));
  await vi.waitFor(() => expect(renewed).toBeGreaterThan(1));
  backend.send(tokenFrame(ids[0], 0, 98), doneFrame(ids[0]));
  expect((await pending).status).toBe(200);
});

test("usage is what was sent, whatever a backend says", async () => {
  const reported = await reportedByCells();
  const seen = backendStreams(({ sequences: [{ id, continuedIds }] }) =>
    framesStream([tokenFrame(id, continuedIds.length, 98), { ...doneFrame(id), completionTokens: -1_000_000 }]),
  );
  const app = testApp();
  await expectError(app.complete({ prompt: "aaa" }), { status: 503 });
  expect(await chargedBy(reported)).toBe(0);
  const answer = app.complete({ prompt: "aaa", max_tokens: 9, stream: true });
  const data = await eventsOf<{ choices?: object[] }>(answer);
  const texts = data.flatMap(({ choices }) => choices ?? []);
  expect(data.at(-2)).toMatchObject({ error: { code: "backend_unavailable" } });
  expect(texts.length).toBeGreaterThan(0);
  expect(await chargedBy(reported)).toBe(texts.length);
  expect(seen.batches.length).toBeGreaterThan(1);
});
