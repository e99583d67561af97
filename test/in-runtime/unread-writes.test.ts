/** A cell's stream through the Worker, natively or event by event. The cell is lost, or the client stops reading. */
import { runInDurableObject } from "cloudflare:test";
import { delay } from "msw";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { forms } from "../../edge/answer/forms.ts";
import { eventText, ResponseBuilder } from "../../edge/answer/response.ts";
import { RepeatedEvents } from "../../edge/answer/sent-events.ts";
import { maxStreamBytes } from "../../edge/answer/token-count.ts";
import type { Cell } from "../../edge/cell/cell.ts";
import type { CellNamespace } from "../../edge/cell/cell-names.ts";
import type { CellRequest } from "../../edge/cell/cell-request.ts";
import { createCells } from "../../edge/cell/resumable-answer.ts";
import { defaultRegion } from "../../edge/platform/region.ts";
import type { DoneFrame } from "../../shared/contracts/inference.ts";
import type { ResponseSettings } from "../../shared/contracts/response-object.ts";
import { sseComment, sseDone, sseEvent } from "../../shared/contracts/sse.ts";
import type { ServiceError } from "../../shared/errors.ts";
import { doneFrame } from "../support/frames.ts";
import { seededRandom } from "../support/steps.ts";
import { localCell } from "./objects.ts";

const { signal } = new AbortController();
const utf8 = new TextEncoder();
const chunk = (index: number, text: string, finish_reason: string | null = null, timings = {}) =>
  sseEvent(JSON.stringify({ choices: [{ index, text, finish_reason }], ...timings }));
const heartbeat = sseComment("hb");

/**
 * A cell's answer that a test controls. Only the object that made the stream can write to it. So the test leaves commands in `work`, which
 * `open` polls.
 */
function handMade() {
  const work: (Uint8Array | "lose" | "close")[] = [];
  const cell = {
    taken: 0,
    /** True if the reader has left, which only a failed write shows. */
    isLeft: false,
    send: (bytes: string | Uint8Array) => void work.push(typeof bytes === "string" ? utf8.encode(bytes) : bytes),
    lose: (bytes?: string | Uint8Array) => cell.end("lose", bytes),
    close: (bytes?: string | Uint8Array) => cell.end("close", bytes),
    end(how: "lose" | "close", bytes: string | Uint8Array = "") {
      if (bytes.length > 0) cell.send(bytes);
      work.push(how);
    },
    open(): ReadableStream<Uint8Array> {
      const { readable, writable } = new IdentityTransformStream();
      const writer = writable.getWriter();
      const run = async () => {
        for (;;) {
          const next = work.shift();
          if (next === "lose") return writer.abort(new Error("its machine is gone"));
          if (next === "close") return writer.close();
          if (!next) await delay(1);
          else {
            await writer.write(next);
            cell.taken++;
          }
        }
      };
      run().catch(() => {
        cell.isLeft = true;
      });
      return readable;
    },
  };
  return cell;
}

const ways: ("native" | "by events")[] = ["native", "by events"];
type Way = (typeof ways)[number] | "whole";

/** Cells that give `answers` in turn. `requests`: what each of them got. */
function handMadeCells(answers: ReturnType<typeof handMade>[]) {
  const requests: CellRequest[] = [];
  const namespace: CellNamespace = () => ({
    fetch: async (_, { body }) => {
      const id = open.length;
      const answer = answers[requests.length];
      open.push(() => new Response(answer.open()));
      requests.push(JSON.parse(String(body)));
      return localCell().fetch(`https://hand-made/${id}`);
    },
  });
  const cells = createCells({ namespace, cellsPerRegion: 4, now: () => 0, lost: () => undefined });
  return { cells, requests };
}

/** Two choices. The stream has at most 16 KiB if `native`. */
function requestOf(way: Way): CellRequest {
  const sequence = { id: "a", maxTokens: way === "native" ? 8 : 100_000, promptIds: [] };
  const choices = [0, 1].map((index) => ({ index, assignment: {}, sequence }));
  const options = { echo: false, logprobs: null, compare: false, withBlock: false };
  const request = { form: "completion", envelope: {}, admitted: { tenant: "a" }, plan: { choices }, options };
  return { ...request, stream: way !== "whole" } as unknown as CellRequest;
}

async function asked(way: Way, { cells: count = 2, request = requestOf(way) } = {}) {
  const answers = Array.from({ length: count }, handMade);
  const { cells, requests } = handMadeCells(answers);
  const { response, completed } = await cells(request, defaultRegion, signal);
  const failure = completed!.then((): ServiceError | null => null).catch((error: ServiceError) => error);
  const ended = failure.then((error) => error?.kind ?? null);
  return { answers, requests, response, failure, ended };
}

async function left(way: Way) {
  const all = await asked(way);
  const reader = all.response.body!.getReader();
  all.answers[0].send(chunk(0, "a"));
  await reader.read();
  await reader.cancel();
  return all;
}

/** Functions that make the cell's responses, by the index in the request's path. */
const open: (() => Response)[] = [];
beforeAll(() =>
  runInDurableObject(localCell(), (cell: Cell) => {
    cell.fetch = async ({ url }) => open[Number(new URL(url).pathname.slice(1))]();
  }),
);

const patience = { interval: 1, timeout: 5000 };

describe.each(ways)("a stream, %s", (way) => {
  test("of a client that leaves is cancelled in its cell, and no other cell is asked", async () => {
    const { answers, requests, ended } = await left(way);
    await vi.waitFor(() => {
      answers[0].send(heartbeat);
      expect(answers[0].isLeft).toBe(true);
    }, patience);
    expect(await ended).toBe("cancelled");
    expect(requests).toHaveLength(1);
  });

  test("whose cell is lost after [DONE] is complete; if it is lost after the last event, another cell completes it", async () => {
    const events = [chunk(0, "a", "stop"), chunk(1, "b", "stop")];
    for (const isDone of [true, false]) {
      const { answers, requests, response, ended } = await asked(way);
      const text = response.text();
      for (const event of isDone ? [...events, sseDone] : events) answers[0].send(event);
      answers[0].lose();
      if (!isDone) answers[1].close(sseDone);
      expect(await text).toBe([...events, sseDone].join(""));
      expect(await ended).toBeNull();
      expect(requests).toHaveLength(isDone ? 1 : 2);
    }
  });

  test("that is closed without [DONE] counts as lost; after an error event [DONE] is added", async () => {
    const closed = await asked(way);
    const text = closed.response.text();
    closed.answers[0].close(chunk(0, "a"));
    closed.answers[1].close(chunk(0, "b") + sseDone);
    expect(await text).toBe(chunk(0, "a") + chunk(0, "b") + sseDone);
    const failed = await asked(way);
    const failedText = failed.response.text();
    const error = sseEvent(JSON.stringify({ error: { message: "why" } }));
    failed.answers[0].lose(error + (way === "native" ? "data: [DO" : ""));
    expect(await failedText).toBe(error + sseDone);
    expect([await failed.ended, failed.requests.length]).toEqual([null, 1]);
  });

  /** The stream's events: [choice, text, whether it is the choice's last]. */
  const made: [number, string, boolean][] = [
    [0, "é", false],
    [1, "b\n", false],
    [1, "\u{1f600}", false],
    [0, "", false],
    [1, "", true],
    [0, "d", true],
  ];
  const written = ([index, text, isDone]: (typeof made)[number], run: number) =>
    chunk(index, text, isDone ? "stop" : null, isDone ? { timings: run } : {});
  const usage = sseEvent(JSON.stringify({ choices: [], usage: { tokens: 3 } }));
  const firstRun = [heartbeat, ...made.map((event) => written(event, 1)), heartbeat, usage, sseDone];
  /** The stream of a second cell, choice 1 first, without what the client has. */
  function secondRun(resumeFrom: CellRequest["resumeFrom"]): string {
    const events = [...made.filter(([index]) => index === 1), ...made.filter(([index]) => index === 0)];
    const repeated = resumeFrom && new RepeatedEvents(resumeFrom);
    const rest = events.filter((event) => !repeated?.skipIfSent(...event)).map((event) => written(event, 2));
    return [heartbeat, ...rest, ...(repeated?.isUsageSent ? [] : [usage]), sseDone].join("");
  }
  const parsed = (text: string) => {
    const events = text
      .replaceAll(/"timings":\d/g, '"timings":0')
      .split("\n\n")
      .filter((event) => !event.startsWith(":"));
    return [0, 1, undefined].map((choice) =>
      events.filter((event) => /"index":(\d)/.exec(event)?.[1] === choice?.toString()),
    );
  };

  test("that is lost after any of its bytes continues unbroken, unless it is lost within timings", {
    timeout: 60_000,
  }, async () => {
    const seed = Date.now() >>> 0;
    const next = seededRandom(seed);
    const bytes = utf8.encode(firstRun.join(""));
    const whole = parsed(firstRun.join(""));
    const lostBehind = async (length: number) => {
      const { answers, requests, response, ended } = await asked(way);
      const text = response.text().catch(() => null);
      for (let at = 0; at < length; ) {
        const end = Math.min(length, at + 1 + Math.floor(next() * 120));
        answers[0].send(bytes.slice(at, end));
        at = end;
      }
      answers[0].lose();
      if (length < bytes.length) {
        await vi.waitFor(() => expect(requests).toHaveLength(2), patience);
        const rest = utf8.encode(secondRun(requests[1].resumeFrom));
        const cut = Math.floor(next() * rest.length);
        for (const part of [rest.slice(0, cut), rest.slice(cut)]) if (part.length > 0) answers[1].send(part);
        answers[1].close();
      }
      return { text: await text, ended: await ended };
    };
    // True if a cut falls within the timings, where resuming is impossible.
    const isWithinTimings = (length: number) =>
      way === "native" && /"timings":1[^\n]*\n?$/.test(new TextDecoder().decode(bytes.subarray(0, length)));
    const lengths = Array.from({ length: bytes.length + 1 }, (_, length) => length);
    expect(lengths.filter(isWithinTimings)).toHaveLength(way === "native" ? 6 : 0);
    for (let from = 0; from < lengths.length; from += 32) {
      await Promise.all(
        lengths.slice(from, from + 32).map(async (length) => {
          const { text, ended } = await lostBehind(length);
          const where = `seed ${seed}, ${length} bytes`;
          if (isWithinTimings(length)) expect([text, ended], where).toEqual([null, "backend_unavailable"]);
          else {
            expect(ended, where).toBeNull();
            expect(parsed(text!), where).toEqual(whole);
          }
        }),
      );
    }
  });
});

const none = { logprobs: null, promptLogprobs: null, compared: [], sourced: [] };
const quiet = { compare: false, sources: false, withBlock: false, isWhole: false };
const responseSettings: ResponseSettings = {
  ...{ instructions: null, max_output_tokens: null, metadata: {}, temperature: 1, top_p: 1, top_logprobs: 0 },
  ...{ text: { format: { type: "text" } }, tool_choice: "auto", tools: [], parallel_tool_calls: false, query: "q" },
};

/** A request for a response of one message, and its events: all, or those that a client at `resumeFrom` lacks. */
function responseOf(way: Way) {
  const request = requestOf(way);
  const [{ sequence }] = request.plan.choices;
  const planned = { ...request.plan.choices[0], sequence, assignment: { memories: [{ id: "notes" }] } as never };
  const plan = { ...request.plan, promptTokens: 1, choices: [planned] };
  const envelope = { ...{ id: "resp_1", created: 1, model: "m", fingerprint: "fp" }, settings: responseSettings };
  const events = (resumeFrom?: CellRequest["resumeFrom"]) => {
    const builder = new ResponseBuilder(forms.response, envelope, plan, quiet);
    const repeated = resumeFrom && new RepeatedEvents(resumeFrom);
    return ["é", "", "b\n", null].flatMap((text) => {
      const done = text === null ? doneFrame("a") : null;
      const part = { planned, text: text ?? "", calls: [], ...none, done, finishReason: done?.finishReason ?? null };
      builder.add(part);
      const made = builder.events(part).filter(({ text, isLast }) => !repeated?.skipIfSent(0, text, isLast));
      return made.map((event) => eventText(event));
    });
  };
  return { request: { ...request, form: "response" as const, envelope, plan }, events };
}

test.each(["native", "by events"] as const)("a response that is lost anywhere goes on unbroken, %s", async (way) => {
  const { request, events } = responseOf(way);
  const whole = [...events(), sseDone].join("");
  const bytes = utf8.encode(whole);
  const lostBehind = async (length: number) => {
    const { answers, requests, response } = await asked(way, { request });
    const text = response.text();
    answers[0].lose(bytes.slice(0, length));
    if (length < bytes.length) {
      await vi.waitFor(() => expect(requests).toHaveLength(2), patience);
      answers[1].close([...events(requests[1].resumeFrom), sseDone].join(""));
    }
    expect(await text, `${length} bytes`).toBe(whole);
  };
  // Cuts around the end of each event, within its name and within its data.
  let start = 0;
  const cuts = [...events(), sseDone].flatMap((event) => {
    const length = utf8.encode(event).length;
    start += length;
    return [0, 1, 7, 20, 60, length >> 1, length - 1].filter((at) => at < length).map((at) => start - length + at);
  });
  await Promise.all([...cuts, bytes.length].map(lostBehind));
});

test("a response whose cells are all lost ends in an error and in response.failed, numbered on", async () => {
  const { request, events } = responseOf("native");
  const { answers, response } = await asked("native", { cells: 4, request });
  const text = response.text();
  const sent = events().slice(0, 5);
  answers[0].send(sent.join(""));
  for (const answer of answers) answer.lose();
  const rest = (await text).slice(sent.join("").length).split("\n\n");
  const [error, failed] = rest.map((event) => event.split("\n")[1] ?? event);
  expect(JSON.parse(error.slice(6))).toMatchObject({ type: "error", sequence_number: 5, code: "backend_unavailable" });
  expect(JSON.parse(failed.slice(6))).toMatchObject({ type: "response.failed", sequence_number: 6 });
  expect(rest.slice(2)).toEqual(["data: [DONE]", ""]);
});

test.each(["completion", "chat", "response"] as const)(
  "events with a token have no more bytes than are counted for it, whatever the token: %s",
  (form) => {
    const { plan } = requestOf("native");
    const settings = { ...responseSettings, instructions: "\u0000".repeat(100) };
    const model = `gpt2:${"m".repeat(64)}`;
    const id = `${forms[form].idPrefix}${"0".repeat(32)}`;
    const envelope = { id, created: 1e10, model, fingerprint: `fp_${"0".repeat(12)}`, settings };
    const options = { echo: false, logprobs: null, promptLogprobs: null, compare: false, sources: false };
    const counted = (maxTokens: number) => {
      const choices = [{ ...plan.choices[0], sequence: { ...plan.choices[0].sequence, maxTokens } }];
      return maxStreamBytes({ ...plan, choices }, { form, ...options }, settings)!;
    };
    // GPT-2's longest token, its longest token of characters that JSON escapes, and a byte that JSON writes as six bytes.
    const texts = ["\u00c3\u0082".repeat(32), '"'.repeat(64), "\u0000"];
    const kinds = form === "completion" ? [false] : [false, true];
    for (const [text, isCall] of texts.flatMap((text) => kinds.map((isCall) => [text, isCall] as const))) {
      const builder = new ResponseBuilder(forms[form], envelope, plan, quiet);
      let begun = 0;
      const bytesOf = (done: DoneFrame | null) => {
        const call = { index: 0, name: begun++ === 0 ? "f" : null, arguments: text, isWhole: done !== null };
        const said = { planned: plan.choices[0], text: done || isCall ? "" : text, calls: isCall ? [call] : [] };
        const part = { ...said, ...none, done, finishReason: done?.finishReason ?? null };
        builder.add(part);
        const events = builder.events(part).map(({ name, data }) => ({ name, data: { ...data, usage: null } }));
        return utf8.encode(events.map((event) => eventText(event)).join("")).length;
      };
      const tokens = 8;
      const sizes = Array.from({ length: tokens }, () => bytesOf(null));
      expect(sizes[1]).toBeLessThanOrEqual(counted(1) - counted(0));
      const all = sizes.reduce((sum, bytes) => sum + bytes, bytesOf(doneFrame("a")));
      console.log(`${form}: at most ${sizes[1]} of ${counted(1) - counted(0)} bytes, ${all} of ${counted(tokens)}`);
      expect(all).toBeLessThanOrEqual(counted(tokens));
    }
  },
);

test("a stream cut within an event breaks off if the next cell's event differs, even if a later one begins alike", async () => {
  const { answers, requests, response, ended } = await asked("native", { cells: 5 });
  const text = response.text();
  answers[0].lose(chunk(0, "x") + chunk(0, " on").slice(0, 39));
  answers[1].close(chunk(0, " two") + chunk(0, " onion") + sseDone);
  await expect(text).rejects.toThrow();
  expect([await ended, requests.length]).toEqual(["backend_unavailable", 2]);
});

test("a stream cut within an event breaks off if the next cell fails, and the log says why", async () => {
  const { answers, response, failure } = await asked("native");
  const text = response.text();
  answers[0].lose(chunk(0, "abc").slice(0, -6));
  answers[1].close(sseEvent(JSON.stringify({ error: { message: "too much to do" } })) + sseDone);
  await expect(text).rejects.toThrow();
  expect(String((await failure)?.cause)).toContain("too much to do");
});

test.each([false, true])(
  "a stream that is lost twice within an event continues; the second loss only closes it: %s",
  async (isSilent) => {
    const { answers, requests, response, ended } = await asked("native", { cells: 3 });
    const text = response.text();
    const event = chunk(0, "abc");
    answers[0].lose(chunk(1, "x") + event.slice(0, -6));
    // The second cell gets less far in choice 1 than the first.
    answers[1].send(chunk(1, "y"));
    if (isSilent) answers[1].close();
    else answers[1].lose();
    await vi.waitFor(() => expect(requests).toHaveLength(3), patience);
    expect(requests[2].resumeFrom).toEqual(requests[1].resumeFrom);
    answers[2].close(chunk(1, "y") + heartbeat + event + sseDone);
    expect(await text).toBe(chunk(1, "x") + event + chunk(1, "y") + sseDone);
    expect(await ended).toBeNull();
  },
);

test("a whole answer that fails in its middle does not end as a complete one", async () => {
  const { answers, response, ended } = await asked("whole");
  const text = response.text();
  answers[0].lose('{"a":');
  await expect(text).rejects.toThrow();
  expect(await ended).toBe("backend_unavailable");
});
