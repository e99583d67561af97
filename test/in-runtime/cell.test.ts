import { runInDurableObject } from "cloudflare:test";
import { HttpResponse, http } from "msw";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import type { Cell } from "../../edge/cell/cell.ts";
import { queueLimits } from "../../edge/dispatch/routing-limits.ts";
import { isSignedBy, parseSignature, signingKey } from "../../shared/contracts/call-signature.ts";
import { batchRequestSchema, errorFrame } from "../../shared/contracts/inference.ts";
import { frameLine } from "../../shared/contracts/ndjson.ts";
import { ServiceError } from "../../shared/errors.ts";
import { doneFrame, tokenFrame } from "../support/frames.ts";
import { eventsOf } from "./answers.ts";
import { lateBackend } from "./backend.ts";
import { recordedAdmissions, testApp } from "./harness.ts";
import { network } from "./network.ts";
import { cellIsIdle, configure, localCell } from "./objects.ts";

async function textsOf(response: Response): Promise<string[]> {
  const { choices } = await response.json<{ choices: { text: string }[] }>();
  return choices.map(({ text }) => text);
}

const readChunk = async (reader: ReadableStreamDefaultReader<Uint8Array>) =>
  new TextDecoder().decode((await reader.read()).value);

async function nextEvents(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<string> {
  let chunk = await readChunk(reader);
  while (chunk === ": hb\n\n") chunk = await readChunk(reader);
  return chunk;
}

const waitingInCell = () => runInDurableObject(localCell(), ({ dispatcher }: Cell) => dispatcher.waiting);

/** Leaves the calls unaccepted, so that the queue gathers later requests. */
async function unaccepted(
  app: ReturnType<typeof testApp>,
  { bodies, seen }: Pick<ReturnType<typeof lateBackend>, "bodies" | "seen">,
): Promise<ReturnType<typeof app.complete>[]> {
  const pending = [];
  for (let i = 0; i < queueLimits.callsPerGroup; i++) {
    bodies[i].accepted = false;
    pending.push(app.complete({ prompt: "aaa" }));
    await vi.waitFor(() => expect(seen.batches).toHaveLength(i + 1));
  }
  return pending;
}

/** Stops the clock, so that a queue gathers until a call is accepted. */
function stopClock(): void {
  const clock = vi.spyOn(Date, "now").mockReturnValue(Date.now());
  onTestFinished(() => clock.mockRestore());
}

describe("a cell", () => {
  test("sends requests at once, gathers later requests while calls are unaccepted, and is idle in the end", async () => {
    stopClock();
    const atOnce = queueLimits.callsPerGroup;
    const { bodies, seen, finish } = lateBackend(atOnce + 1);
    const app = testApp();
    const first = await unaccepted(app, { bodies, seen });
    const others = [{ prompt: "aa", n: 2 }, { prompt: "aaaa" }, { prompt: "bbb" }].map((body) => app.complete(body));
    await vi.waitFor(async () => expect(await waitingInCell()).toBe(4));
    expect(await cellIsIdle()).toBe(false);
    bodies[0].accepted = true;
    await vi.waitFor(() => expect(seen.batches).toHaveLength(atOnce + 1));
    for (const body of bodies) body.accepted = true;
    for (const call of bodies.keys()) finish(call);
    const texts = await Promise.all([...first, ...others].map(async (response) => textsOf(await response)));
    expect(texts).toEqual([...first.map(() => ["b"]), ["b", "b"], ["b"], ["b"]]);
    const nearest = seen.batches.map(({ sequences }) => sequences.map(({ mixture }) => mixture!.adapters[0]));
    const [c0, c1] = ["c0", "c1"].map((centroidId) => expect.objectContaining({ centroidId }));
    expect(nearest.slice(0, atOnce)).toEqual(first.map(() => [c0]));
    expect(nearest[atOnce]).toHaveLength(4);
    expect(nearest[atOnce]).toEqual(expect.arrayContaining([c0, c0, c0, c1]));
    await vi.waitFor(async () => expect(await cellIsIdle()).toBe(true));
  });

  test("begins a stream once a backend accepts it; with a deadline, once it has started or failed", async () => {
    const { bodies, seen, finish } = lateBackend(3);
    const app = testApp();
    const complete = (headers: Record<string, string>) => app.complete({ prompt: "aaa", stream: true }, { headers });
    bodies[0].accepted = false;
    let isAnswered = false;
    const pending = Promise.resolve(complete({})).finally(() => {
      isAnswered = true;
    });
    await vi.waitFor(() => expect(seen.batches).toHaveLength(1));
    expect(isAnswered).toBe(false);
    bodies[0].accepted = true;
    expect((await pending).status).toBe(200);
    const late = complete({ "x-deadline-ms": "300" });
    await vi.waitFor(() => expect(seen.batches).toHaveLength(2));
    const { id } = seen.batches[1].sequences[0];
    bodies[1].send(errorFrame(id, new ServiceError("deadline_exceeded", "waited 300 ms")));
    expect((await late).status).toBe(504);
    const early = complete({ "x-deadline-ms": "60000" });
    await vi.waitFor(() => expect(seen.batches).toHaveLength(3));
    finish(2);
    expect((await early).status).toBe(200);
    finish(0);
    await Promise.all([pending, early].map(async (response) => (await response).text()));
    await vi.waitFor(async () => expect(await cellIsIdle()).toBe(true));
  });

  test("keeps a silent stream alive with comments, and sends each token as it comes", async () => {
    const { bodies, seen } = lateBackend(1);
    const response = await testApp({ heartbeatMs: 5 }).complete({ prompt: "aaa", stream: true });
    const reader = response.body!.getReader();
    expect(await readChunk(reader)).toBe(": hb\n\n");
    const { id } = seen.batches[0].sequences[0];
    const eventOf = (text: string) => JSON.parse(text.slice("data: ".length)).choices[0];
    const nextEvent = async () => eventOf(await nextEvents(reader));
    bodies[0].send(tokenFrame(id, 0, 98));
    expect((await nextEvent()).text).toBe("b");
    bodies[0].send(tokenFrame(id, 1, 99));
    expect((await nextEvent()).text).toBe("c");
    bodies[0].send({ ...doneFrame(id), completionTokens: 2 });
    const [last, end] = (await nextEvents(reader)).split(/(?<=\n\n)/);
    expect(eventOf(last).finish_reason).toBe("length");
    expect(end).toBe("data: [DONE]\n\n");
    expect((await reader.read()).done).toBe(true);
  });

  test("an error beside tokens leaves the client those tokens", async () => {
    const { bodies, seen } = lateBackend(1);
    const response = await testApp().complete({ prompt: "aaa", stream: true });
    const { id } = seen.batches[0].sequences[0];
    const error = new ServiceError("deadline_exceeded", "too late");
    bodies[0].send(tokenFrame(id, 0, 98), tokenFrame(id, 1, 99), errorFrame(id, error));
    const data = await eventsOf(response);
    expect(data).toEqual([
      expect.objectContaining({ choices: [expect.objectContaining({ text: "b" })] }),
      expect.objectContaining({ choices: [expect.objectContaining({ text: "c" })] }),
      { error: expect.objectContaining({ code: "deadline_exceeded" }) },
      "[DONE]",
    ]);
  });

  test.each(["fail", "close"] as const)(
    "the only backend breaks off (%s), and then only fails: what was said, an error event, [DONE]",
    async (how) => {
      const { bodies, seen } = lateBackend(1);
      const response = await testApp({ heartbeatMs: 5 }).complete({ prompt: "aaa", stream: true });
      bodies[0].send(tokenFrame(seen.batches[0].sequences[0].id, 0, 98));
      bodies[0].end(how);
      const data = await eventsOf(response);
      expect(data).toEqual([
        expect.objectContaining({ choices: [expect.objectContaining({ text: "b" })] }),
        { error: expect.objectContaining({ code: "backend_unavailable", type: "server_error" }) },
        "[DONE]",
      ]);
      expect(seen.batches[1].sequences).toMatchObject([{ continuedIds: [98] }]);
      await vi.waitFor(async () => expect(await cellIsIdle()).toBe(true));
    },
  );
});

test("a running cell takes up another list of backends and a rotated secret, and running calls continue", async () => {
  const [secret, elsewhere] = ["rotated-0123456789abcdef0123456789", "http://127.0.0.1:8789"];
  const signed: boolean[] = [];
  const { seen, finish } = lateBackend(1);
  network.use(
    http.post(`${elsewhere}/v1/batches`, async ({ request }) => {
      const body = new Uint8Array(await request.arrayBuffer());
      const { sequences } = batchRequestSchema.parse(JSON.parse(new TextDecoder().decode(body)));
      const call = parseSignature(request.headers.get("authorization") ?? "", "POST", "/v1/batches");
      signed.push(call !== null && (await isSignedBy(await signingKey(secret), call)));
      return new HttpResponse(sequences.map(({ id }) => frameLine({ ...doneFrame(id), completionTokens: 0 })).join(""));
    }),
  );
  const app = testApp();
  const before = app.complete({ prompt: "aaa" });
  await vi.waitFor(() => expect(seen.batches).toHaveLength(1));
  await configure(localCell(), { BACKEND_URLS: elsewhere, BACKEND_SECRETS: secret });
  expect((await app.complete({ prompt: "aaa" })).status).toBe(200);
  expect(signed).toEqual([true]);
  finish(0);
  expect(await textsOf(await before)).toEqual(["b"]);
});

describe("a client that goes away", () => {
  test("in the middle of its stream: no other cell resumes the stream, and the cell settles it", async () => {
    const { bodies, seen } = lateBackend(1);
    const { settled, beginAdmission } = recordedAdmissions(true);
    const app = testApp({ heartbeatMs: 5, beginAdmission });
    const abort = new AbortController();
    const response = await app.complete({ prompt: "aaa", stream: true }, { signal: abort.signal });
    bodies[0].send(tokenFrame(seen.batches[0].sequences[0].id, 0, 98));
    const reader = response.body!.getReader();
    await nextEvents(reader);
    abort.abort();
    await vi.waitFor(() => expect(bodies[0].cancelled).toBe(true));
    await vi.waitFor(async () => expect(await cellIsIdle()).toBe(true));
    while (!(await reader.read().catch(() => ({ done: true }))).done);
    await app.settled();
    // The Worker settles the request with no use, which frees its reservation.
    expect([seen.batches.length, app.lost, app.logged, settled]).toEqual([1, [], [], [[]]]);
  });

  test("leaves the queue where it waits, and is cancelled at the backend where others are on its call", async () => {
    stopClock();
    const atOnce = queueLimits.callsPerGroup;
    const { bodies, seen, finish } = lateBackend(atOnce + 1);
    const app = testApp({ heartbeatMs: 5 });
    const first = await unaccepted(app, { bodies, seen });
    // Three requests wait behind the first: one leaves the queue, one leaves while it runs, one stays.
    const [leavesQueue, leavesCall, stays] = await Promise.all(
      ["a", "aa", "aaaa"].map((prompt) => app.complete({ prompt, stream: true })),
    );
    await leavesQueue.body!.cancel();
    await vi.waitFor(async () => expect(await waitingInCell()).toBe(2));
    bodies[0].accepted = true;
    await vi.waitFor(() => expect(seen.batches).toHaveLength(atOnce + 1));
    const [call, body] = [seen.batches[atOnce], bodies[atOnce]];
    expect(call.sequences.map(({ promptIds }) => promptIds.length)).toEqual([2, 4]);
    const [gone, kept] = call.sequences.map(({ id }) => id);
    body.send(tokenFrame(gone, 0, 98), tokenFrame(kept, 0, 98));
    await leavesCall.body!.cancel();
    await vi.waitFor(() => expect(seen.cancelled).toEqual([gone]));
    body.send(tokenFrame(kept, 1, 99), { ...doneFrame(kept), completionTokens: 2 });
    const chunks = (await eventsOf(stays)).slice(0, -1) as { choices: { text: string }[] }[];
    expect(chunks.map(({ choices }) => choices[0].text)).toEqual(["b", "c", ""]);
    for (const one of bodies) one.accepted = true;
    for (let i = 0; i < atOnce; i++) finish(i);
    await Promise.all(first);
    await vi.waitFor(async () => expect(await cellIsIdle()).toBe(true));
  });

  test("before any headers: its leaving reaches the backend", async () => {
    const { bodies, seen } = lateBackend(1);
    const abort = new AbortController();
    const app = testApp();
    const pending = app.complete({ prompt: "aaa" }, { signal: abort.signal });
    await vi.waitFor(() => expect(seen.batches).toHaveLength(1));
    abort.abort();
    await vi.waitFor(() => expect(bodies[0].cancelled).toBe(true));
    expect((await pending).status).toBe(499);
    expect(app.logged).toEqual([]);
    await vi.waitFor(async () => expect(await cellIsIdle()).toBe(true));
  });
});
