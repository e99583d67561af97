/** Cells that are lost while they answer, as by a deploy: clients see one unbroken answer. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { delay } from "msw";
import { describe, expect, test, vi } from "vitest";
import type { CellNamespace } from "../../edge/cell/cell-names.ts";
import { refusalResponse } from "../../edge/cell/cell-request.ts";
import { createCells } from "../../edge/cell/resumable-answer.ts";
import { NotTaken } from "../../edge/dispatch/dispatcher.ts";
import { frameLine } from "../../shared/contracts/ndjson.ts";
import { keyEntry } from "../support/key-records.ts";
import { byChoice, expectError, jsonOf, type MaybePromise, untimedEvents } from "./answers.ts";
import { backendStreams, byteStream, inTurns, seededFrames, seededToken } from "./backend.ts";
import { recordedAdmissions, testApp } from "./harness.ts";
import { ledgerOfTenant, localCells } from "./objects.ts";

const lose = () =>
  Promise.all(
    localCells().map((stub) =>
      runInDurableObject(stub, (_, state) => state.abort("its machine is gone")).catch(() => undefined),
    ),
  );

async function loseDuring<T>(work: MaybePromise<T>): Promise<T> {
  let isOver = false;
  const ended = Promise.resolve(work).finally(() => {
    isOver = true;
  });
  while (!isOver) {
    await lose();
    await delay(20);
  }
  return ended;
}

/** Sequences send one frame each in turn while `mayGoOn` is true. */
function backend(mayGoOn: (batch: number, turn: number) => boolean) {
  let batches = 0;
  return backendStreams(({ sequences }, signal) => {
    const batch = batches++;
    const rows = sequences.map(seededFrames);
    const rest = inTurns(rows);
    let sent = 0;
    let isGone = false;
    signal.addEventListener("abort", () => {
      isGone = true;
    });
    return new ReadableStream({
      async pull(controller) {
        await delay(0);
        while (!mayGoOn(batch, Math.floor(sent / rows.length)) && !isGone) await delay(10);
        const frame = rest.shift();
        if (isGone) controller.error(signal.reason);
        else if (frame) controller.enqueue(new TextEncoder().encode(frameLine(frame)));
        else controller.close();
        sent++;
      },
      cancel() {
        isGone = true;
      },
    });
  });
}

async function readUntil(reader: ReadableStreamDefaultReader<Uint8Array>, stop: (text: string) => boolean) {
  let text = "";
  const decoder = new TextDecoder();
  while (!stop(text)) {
    const { done, value } = await reader.read();
    if (done) break;
    text += decoder.decode(value, { stream: true });
  }
  return text;
}

const never = () => false;
const eventsIn = (text: string) => text.split("data: ").length - 1;

const withoutIds = (events: string[]) => byChoice(events.map((event) => event.replace(/"(id|created)":[^,]*,/g, "")));

const stream = { prompt: "aaa", max_tokens: 12, stream: true };
const seeded = { prompt: "aaa", seed: 5, temperature: 1 };
describe("streams whose cell is lost", () => {
  // This test runs first, because the ledger may write other tests' use late.
  test("are counted once", async () => {
    const used = async () => {
      const rows = await ledgerOfTenant("local").usage();
      return rows.reduce((sum, row) => sum + row.completionTokens, 0);
    };
    const before = await used();
    let isLost = false;
    backend((_, turn) => isLost || turn < 4);
    const reader = (await testApp().complete(stream)).body!.getReader();
    await readUntil(reader, (text) => eventsIn(text) > 2);
    await lose();
    isLost = true;
    expect(await readUntil(reader, never)).toContain("[DONE]");
    await vi.waitFor(async () => expect((await used()) - before).toBe(12));
  });

  const echoed = { ...seeded, n: 2, echo: true, logprobs: 1, stream_options: { include_usage: true } };
  test.each([
    ["one choice", 60, { prompt: "aaa", max_tokens: 6 }],
    ["seeded choices with echo, logprobs and usage", 20, { ...echoed, max_tokens: 9 }],
    // This stream is too long to pass through the Worker natively, so the Worker reads its events.
    ["a long one", 4, { ...seeded, max_tokens: 20, n: 16, logprobs: 5 }],
    ["several centroids, with a stop string", 20, { ...seeded, prompt: ["aaa", "bbb"], max_tokens: 9, stop: ["zz"] }],
  ])(
    "continue unbroken with the same text, each from another place: %s, %d streams",
    { timeout: 120_000 },
    async (_, streams, body) => {
      const all = Array.from({ length: streams }, (_, i) => i);
      const ask = async ({ complete }: ReturnType<typeof testApp>, seed: number) =>
        (await complete({ ...body, stream: true, seed })).body!.getReader();
      backend(() => true);
      const undisturbed = testApp();
      const read = async (i: number) => untimedEvents(await readUntil(await ask(undisturbed, i), never));
      const whole = await Promise.all(all.map(read));

      let isLost = false;
      const seen = backend((batch, turn) => isLost || turn <= 1 + (batch % 5));
      const app = testApp();
      const begun = await Promise.all(
        all.map(async (i) => {
          const reader = await ask(app, i);
          return { reader, text: await readUntil(reader, (text) => eventsIn(text) > 0) };
        }),
      );
      const calls = seen.batches.length;
      await lose();
      isLost = true;
      const ended = await Promise.all(
        begun.map(async ({ reader, text }) => untimedEvents(text + (await readUntil(reader, never)))),
      );
      for (const i of all) {
        expect(whole[i].at(-1)).toBe("data: [DONE]");
        expect(withoutIds(ended[i])).toEqual(withoutIds(whole[i]));
      }
      expect(app.logged).toEqual([]);
      expect(app.lost.length).toBeGreaterThanOrEqual(streams);
      expect(seen.batches.length).toBeGreaterThan(calls);
    },
  );

  test("repeat nothing when a cell is lost that was behind with a choice", async () => {
    const body = { prompt: ["aaa", "bbb"], max_tokens: 9, seed: 9, temperature: 1, stream: true };
    backend(() => true);
    const whole = untimedEvents(await (await testApp().complete(body)).text());
    let losses = 0;
    // Each prompt has a batch. After the first loss one batch gets farther than before, the other less far.
    const isFree = (batch: number, turn: number) => [turn < 4, batch % 2 === 0 ? turn < 7 : turn < 1, true][losses];
    backend((batch, turn) => isFree(batch, turn));
    const reader = (await testApp().complete(body)).body!.getReader();
    let text = await readUntil(reader, (read) => eventsIn(read) >= 8);
    await lose();
    losses = 1;
    text += await readUntil(reader, (read) => eventsIn(read) >= 1);
    await lose();
    losses = 2;
    text += await readUntil(reader, never);
    expect(withoutIds(untimedEvents(text))).toEqual(withoutIds(whole));
  });

  test("whose rest is computed differently end in an error, not in another text", async () => {
    let isLost = false;
    const seen = backendStreams(({ sequences: [sequence] }, signal) => {
      const frames = seededFrames(sequence).map((frame) =>
        isLost && frame.type === "token" ? { ...frame, tokenId: frame.tokenId - 32 } : frame,
      );
      return new ReadableStream({
        async pull(controller) {
          await delay(0);
          while (!isLost && frames.length < 8 && !signal.aborted) await delay(1);
          const frame = frames.shift();
          if (frame) controller.enqueue(new TextEncoder().encode(frameLine(frame)));
          else controller.close();
        },
      });
    });
    const reader = (await testApp().complete(stream)).body!.getReader();
    const text = await readUntil(reader, (read) => eventsIn(read) > 2);
    await lose();
    isLost = true;
    const events = untimedEvents(text + (await readUntil(reader, never)));
    expect(events.at(-2)).toContain("numerics_mismatch");
    expect(events.at(-1)).toBe("data: [DONE]");
    expect(events.slice(0, -2).every((event) => /"text":"[a-z]"/.test(event))).toBe(true);
    expect(seen.batches).toHaveLength(2);
  });

  test("again and again end in an error event and [DONE], and the tenant's place is free", async () => {
    backend((_, turn) => turn < 2);
    const { settled, beginAdmission } = recordedAdmissions();
    const app = testApp({ beginAdmission });
    const reader = (await app.complete(stream)).body!.getReader();
    let text = await readUntil(reader, (read) => eventsIn(read) > 0);
    text += await loseDuring(readUntil(reader, never));
    const events = untimedEvents(text);
    expect(JSON.parse(events.at(-2)!.slice(6)).error).toMatchObject({ code: "backend_unavailable" });
    expect(events.at(-1)).toBe("data: [DONE]");
    await vi.waitFor(() => expect(settled).toEqual([[]]));
    expect(app.logged).toEqual([expect.stringMatching(/^backend_unavailable/)]);
  });
});

describe("a client that leaves between two cells", () => {
  /** A tenant with a limit of one concurrent request. Its app calls the cells of `namespace`. */
  async function limited(namespace: CellNamespace) {
    const secret = `sk-${crypto.randomUUID()}`;
    const tenant = `leaves-${secret.slice(3, 11)}`;
    await env.TENANTS.put(...(await keyEntry(secret, tenant, { concurrentRequests: 1 })));
    const cells = createCells({ namespace, cellsPerRegion: 4, now: Date.now, lost: () => undefined });
    const leaving = new AbortController();
    const ask = () => testApp({ cells }, `Bearer ${secret}`).complete(stream, { signal: leaving.signal });
    const open = async () => (await ledgerOfTenant(tenant).stateOf()).open.length;
    return { ask, leave: () => leaving.abort(), open };
  }
  /** A cell that answers only when its caller leaves. */
  const silent = (signal: AbortSignal | null | undefined) =>
    new Promise<Response>((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));

  const eventStream = { headers: { "content-type": "text/event-stream" } };
  test.each([
    ["is full", () => refusalResponse(new NotTaken("overloaded", "no room"))],
    ["is lost before its head", () => Promise.reject(new Error("its machine is gone"))],
    ["is lost in the middle of its stream", () => new Response(byteStream(["data: {}\n\n"]), eventStream)],
  ])("has its place back at once where the first %s", async (_, first) => {
    let asked = 0;
    const { ask, leave, open } = await limited(() => ({
      fetch: async (_url, { signal }) => (asked++ === 0 ? first() : silent(signal)),
    }));
    const answer = ask().then(
      (response) => response.text(),
      () => "",
    );
    await vi.waitFor(() => expect(asked).toBe(2));
    expect(await open()).toBe(1);
    leave();
    await answer.catch(() => undefined);
    await vi.waitFor(async () => expect(await open()).toBe(0), { timeout: 10_000, interval: 50 });
  });
});

describe("a whole answer whose cell is lost", () => {
  test.each([60_000, 1])("is computed again, before its head or after; heartbeat %d ms", async (heartbeatMs) => {
    const begins = heartbeatMs === 1;
    const maxTokens = 45;
    let isLost = false;
    let isAnswered = false;
    const startMs = Date.now();
    // Frames come 20 ms apart, so that the cell reads each alone, some of them after its heartbeat.
    const isDue = (turn: number) => turn < 40 && Date.now() >= startMs + 20 * turn;
    const seen = backend((_, turn) => isLost || turn < 6 || (begins && !isAnswered && isDue(turn)));
    const app = testApp({ heartbeatMs });
    const asked = app.complete({ ...seeded, max_tokens: maxTokens });
    const pending = Promise.resolve(asked).finally(() => {
      isAnswered = true;
    });
    await vi.waitFor(() => expect(seen.batches).toHaveLength(1));
    if (begins) await pending;
    await lose();
    isLost = true;
    const { choices } = await jsonOf<{ choices: { text: string }[] }>(pending);
    const [again] = seen.batches[1].sequences;
    const bytes = Array.from({ length: maxTokens }, (_, i) => seededToken(again, i));
    expect(choices[0].text).toBe(String.fromCharCode(...bytes));
    expect(again.id).not.toBe(seen.batches[0].sequences[0].id);
    expect(app.logged).toEqual([]);
  });

  test("too often: 503 with Retry-After", async () => {
    const seen = backend(never);
    const pending = testApp().complete({ prompt: "aaa" });
    await vi.waitFor(() => expect(seen.batches.length).toBeGreaterThan(0));
    const retryAfter = expect.stringMatching(/^[1-9]\d*$/);
    await expectError(loseDuring(pending), { status: 503, code: "backend_unavailable", retryAfter });
  });
});
