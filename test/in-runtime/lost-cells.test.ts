/** Cells that are lost while they answer, as by a deploy or a failed machine: clients see one unbroken answer. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { delay } from "msw";
import { describe, expect, test, vi } from "vitest";
import type { Dependencies } from "../../edge/api/dependencies.ts";
import type { CellNamespace } from "../../edge/cell/cell-names.ts";
import { refusalResponse } from "../../edge/cell/cell-request.ts";
import { createCells } from "../../edge/cell/resumable-answer.ts";
import { NotTaken } from "../../edge/dispatch/dispatcher.ts";
import type { Consumption } from "../../edge/tenants/consumption.ts";
import { type Ledger, ledgerOf } from "../../edge/tenants/ledger.ts";
import { sha256Hex } from "../../shared/bytes.ts";
import type { Frame, SequenceRequest } from "../../shared/contracts/inference.ts";
import { frameLine } from "../../shared/contracts/ndjson.ts";
import { keyIdOf, keyPrefix, scopes } from "../../shared/contracts/tenants.ts";
import { doneFrame, tokenFrame } from "../support/frames.ts";
import { backendStreams, byteStream, errorOf, localCells, testApp, useNetwork } from "./harness.ts";

useNetwork();

const lose = () =>
  Promise.all(
    localCells().map((stub) =>
      runInDurableObject(stub, (_, state) => state.abort("its machine is gone")).catch(() => undefined),
    ),
  );

/** A token depends on seed and index alone, as with a real backend. */
const tokenAt = ({ sampling: { seed } }: SequenceRequest, index: number) =>
  97 + ((seed! + 7 * index + index ** 2) % 26);

function framesOf(sequence: SequenceRequest): Frame[] {
  const { id, maxTokens, sampling, promptLogprobs, promptIds } = sequence;
  const scored = { logprob: -0.5, alternatives: [[97, -1] as [number, number]] };
  const tokens = Array.from({ length: maxTokens }, (_, i) => ({
    ...tokenFrame(id, i, tokenAt(sequence, i)),
    ...(sampling.logprobs !== undefined && scored),
  }));
  const prompt = {
    type: "prompt" as const,
    id,
    logprobs: promptIds.map((_, i) => (i === 0 ? null : -1)),
    alternatives: promptIds.map(() => []),
  };
  return [...(promptLogprobs ? [prompt] : []), ...tokens, { ...doneFrame(id), completionTokens: maxTokens }];
}

/** A backend that sends a frame a turn, its sequences taking turns, while `mayGoOn` is true. */
function backend(mayGoOn: (batch: number, turn: number) => boolean) {
  let batches = 0;
  return backendStreams(({ sequences }, signal) => {
    const batch = batches++;
    const rows = sequences.map(framesOf);
    const longest = Math.max(...rows.map(({ length }) => length));
    const rest = Array.from({ length: longest }, (_, i) => rows.flatMap((row) => row.slice(i, i + 1))).flat();
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

/** A stream's events without their timings, which differ between runs. */
function comparable(text: string): string[] {
  return text
    .replaceAll(/"timings":\{[^}]*\}/g, '"timings":{}')
    .split("\n\n")
    .filter((event) => event.startsWith("data: "));
}

/** Groups events by choice, because choices may come in any order. */
function byChoice(events: string[]): Map<number | undefined, string[]> {
  return Map.groupBy(events, (event) =>
    event.includes("[DONE]") ? undefined : JSON.parse(event.slice(6)).choices[0]?.index,
  );
}

/** Reads until `stop` is true for the text so far. */
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

const settling =
  (settled: (readonly Consumption[])[]): Dependencies["beginAdmission"] =>
  ({ requestId, access: { tenant } }) => ({
    claim: async () => ({ createdMs: 0 }),
    admit: async () => undefined,
    reserve: async () => ({
      // No ledger admitted this request.
      request: { requestId, tenant, beganMs: 0, isLimited: false },
      renew: () => undefined,
      settle: async (consumed) => void settled.push(consumed),
    }),
    end: async () => undefined,
  });

describe("streams whose cell is lost", () => {
  // This test runs first, because the ledger may write the use of others late.
  test("are counted once", async () => {
    const used = async () => {
      const rows = await env.LEDGERS.getByName("local").usage("2000-01-01", "2100-01-01");
      return rows.reduce((sum, row) => sum + row.completionTokens, 0);
    };
    const before = await used();
    let isLost = false;
    backend((_, turn) => isLost || turn < 4);
    const reader = (await testApp().complete({ prompt: "aaa", max_tokens: 12, stream: true })).body!.getReader();
    await readUntil(reader, (text) => eventsIn(text) > 2);
    await lose();
    isLost = true;
    expect(await readUntil(reader, never)).toContain("[DONE]");
    await vi.waitFor(async () => expect((await used()) - before).toBe(12));
  });

  test.each([
    ["one choice", 60, { prompt: "aaa", max_tokens: 6 }],
    [
      "seeded choices with echo, logprobs and usage",
      20,
      {
        prompt: "aaa",
        max_tokens: 9,
        n: 2,
        seed: 5,
        temperature: 1,
        echo: true,
        logprobs: 1,
        stream_options: { include_usage: true },
      },
    ],
    // This stream is too long to be passed on natively, so the Worker reads its events.
    ["a long one", 4, { prompt: "aaa", max_tokens: 20, n: 16, logprobs: 5, seed: 3, temperature: 1 }],
    [
      "prompts of several centroids, with a stop string",
      20,
      { prompt: ["aaa", "bbb"], max_tokens: 9, stop: ["zz"], seed: 9, temperature: 1 },
    ],
  ])(
    "go on unbroken and alike, each at another place: %s, %d streams",
    { timeout: 120_000 },
    async (_, streams, body) => {
      const all = Array.from({ length: streams }, (_, i) => i);
      const ask = async ({ complete }: ReturnType<typeof testApp>, seed: number) => {
        const response = await complete({ ...body, stream: true, seed });
        expect(response.status).toBe(200);
        return response;
      };
      backend(() => true);
      const undisturbed = testApp();
      const whole = await Promise.all(all.map(async (i) => comparable(await (await ask(undisturbed, i)).text())));

      let isLost = false;
      const seen = backend((batch, turn) => isLost || turn <= 1 + (batch % 5));
      const app = testApp();
      const begun = await Promise.all(
        all.map(async (i) => {
          const reader = (await ask(app, i)).body!.getReader();
          return { reader, text: await readUntil(reader, (text) => eventsIn(text) > 0) };
        }),
      );
      const calls = seen.batches.length;
      await lose();
      isLost = true;
      const ended = await Promise.all(
        begun.map(async ({ reader, text }) => comparable(text + (await readUntil(reader, never)))),
      );
      for (const i of all) expect(withoutIds(ended[i])).toEqual(withoutIds(whole[i]));
      expect(app.logged).toEqual([]);
      expect(app.lost.length).toBeGreaterThanOrEqual(streams);
      expect(seen.batches.length).toBeGreaterThan(calls);
    },
  );

  test("repeat nothing when a cell is lost that was behind with a choice", async () => {
    const body = { prompt: ["aaa", "bbb"], max_tokens: 9, seed: 9, temperature: 1, stream: true };
    backend(() => true);
    const whole = comparable(await (await testApp().complete(body)).text());
    let losses = 0;
    // Each prompt has its own batch. After the first loss one batch gets farther than before, the other less far.
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
    expect(withoutIds(comparable(text))).toEqual(withoutIds(whole));
  });

  test("of which the rest is computed differently end in an error, not in another text", async () => {
    let isLost = false;
    const seen = backendStreams(({ sequences: [sequence] }, signal) => {
      const frames = framesOf(sequence).map((frame) =>
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
    const app = testApp();
    const reader = (await app.complete({ prompt: "aaa", max_tokens: 12, stream: true })).body!.getReader();
    const text = await readUntil(reader, (read) => eventsIn(read) > 2);
    await lose();
    isLost = true;
    const events = comparable(text + (await readUntil(reader, never)));
    expect(events.at(-2)).toContain("numerics_mismatch");
    expect(events.at(-1)).toBe("data: [DONE]");
    expect(events.slice(0, -2).every((event) => /"text":"[a-z]"/.test(event))).toBe(true);
    expect(seen.batches).toHaveLength(2);
  });

  test("again and again end in an error event and [DONE], and the tenant's place is free", async () => {
    backend((_, turn) => turn < 2);
    const settled: (readonly Consumption[])[] = [];
    const app = testApp({ beginAdmission: settling(settled) });
    const reader = (await app.complete({ prompt: "aaa", max_tokens: 12, stream: true })).body!.getReader();
    let text = await readUntil(reader, (read) => eventsIn(read) > 0);
    let isOver = false;
    const losing = (async () => {
      while (!isOver) {
        await lose();
        await delay(20);
      }
    })();
    text += await readUntil(reader, never);
    isOver = true;
    await losing;
    const events = comparable(text);
    expect(JSON.parse(events.at(-2)!.slice(6)).error).toMatchObject({ code: "backend_unavailable" });
    expect(events.at(-1)).toBe("data: [DONE]");
    await vi.waitFor(() => expect(settled).toEqual([[]]));
    expect(app.logged).toEqual([expect.stringMatching(/^backend_unavailable/)]);
  });
});

describe("a client that leaves between two cells", () => {
  /** A tenant with room for one request, and cells in a namespace of the test's. */
  async function limited(namespace: CellNamespace) {
    const secret = `sk-${crypto.randomUUID()}`;
    const hash = await sha256Hex(new TextEncoder().encode(secret));
    const tenant = `leaves-${hash.slice(0, 8)}`;
    const tenantRecord = { plan: "unlimited", limits: { concurrentRequests: 1 }, origins: [] };
    const record = { hash, tenant, scopes: [...scopes], createdAt: "2026-11-01T00:00:00.000Z", tenantRecord };
    await env.TENANTS.put(keyPrefix + keyIdOf(hash), JSON.stringify({ ...record, expiresAt: null }));
    const cells = createCells({ namespace, cellsPerRegion: 4, now: Date.now, lost: () => undefined });
    const leaving = new AbortController();
    const ask = () =>
      testApp({ cells }).complete(
        { prompt: "aaa", max_tokens: 4, stream: true },
        { headers: { authorization: `Bearer ${secret}` }, signal: leaving.signal },
      );
    const ledger = ledgerOf(env.LEDGERS, tenant);
    const open = () => runInDurableObject(ledger, (object: Ledger) => object.quota.state.open.length);
    return { ask, leave: () => leaving.abort(), open };
  }
  /** A cell that does not answer until its caller leaves. */
  const silent = (signal: AbortSignal | null | undefined) =>
    new Promise<Response>((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));

  test.each([
    ["the first is full", () => refusalResponse(new NotTaken("overloaded", "no room"))],
    ["the first is lost before its head", () => Promise.reject(new Error("its machine is gone"))],
    [
      "the first is lost in the middle of its stream",
      () => {
        const head = { "content-type": "text/event-stream" };
        return new Response(byteStream(["data: {}\n\n"]), { headers: head });
      },
    ],
  ])("has its place back at once: %s", async (_, first) => {
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
    // Frames 20 ms apart, so that the cell reads each one alone, and some after its heartbeat.
    const isDue = (turn: number) => turn < 40 && Date.now() >= startMs + 20 * turn;
    const seen = backend((_, turn) => isLost || turn < 6 || (begins && !isAnswered && isDue(turn)));
    const app = testApp({ heartbeatMs });
    const asked = app.complete({ prompt: "aaa", max_tokens: maxTokens, seed: 3, temperature: 1 });
    const pending = Promise.resolve(asked).finally(() => {
      isAnswered = true;
    });
    await vi.waitFor(() => expect(seen.batches).toHaveLength(1));
    if (begins) await pending;
    await lose();
    isLost = true;
    const { choices } = await (await pending).json<{ choices: { text: string }[] }>();
    const [again] = seen.batches[1].sequences;
    const bytes = Array.from({ length: maxTokens }, (_, i) => tokenAt(again, i));
    expect(choices[0].text).toBe(String.fromCharCode(...bytes));
    expect(again.id).not.toBe(seen.batches[0].sequences[0].id);
    expect(app.logged).toEqual([]);
  });

  test("too often: 503 with Retry-After", async () => {
    const seen = backend(never);
    const app = testApp();
    const pending = app.complete({ prompt: "aaa" });
    await vi.waitFor(() => expect(seen.batches.length).toBeGreaterThan(0));
    let isOver = false;
    const losing = (async () => {
      while (!isOver) {
        await lose();
        await delay(20);
      }
    })();
    const response = await pending;
    isOver = true;
    await losing;
    expect(Number(response.headers.get("retry-after"))).toBeGreaterThan(0);
    expect(await errorOf(response)).toMatchObject({ status: 503, code: "backend_unavailable" });
  });
});
