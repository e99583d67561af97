/** The client's resumable fetch over connections that a test scripts. */
import { expect, test } from "vitest";
import { resumableFetch } from "../../../edge/client/resumable.ts";

type Connection = "lost" | { events: string[]; end: "close" | "error" | "silent"; status?: number };

/** A fetch whose attempts get these connections in order. In the result, `sent` has the key and the last event's id of each attempt. */
function scripted(connections: Connection[], options = {}) {
  const sent: { key: string | null; lastId: string | null }[] = [];
  const send = async (_: unknown, init?: RequestInit) => {
    const headers = new Headers(init?.headers);
    sent.push({ key: headers.get("idempotency-key"), lastId: headers.get("last-event-id") });
    const connection = connections.shift();
    if (connection === undefined || connection === "lost") throw new TypeError("connection lost");
    const rest = [...connection.events];
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        const event = rest.shift();
        if (event !== undefined) controller.enqueue(new TextEncoder().encode(event));
        else if (connection.end === "close") controller.close();
        else if (connection.end === "error") controller.error(new TypeError("reset"));
        else return new Promise(() => {});
      },
    });
    const type = connection.status ? "application/json" : "text/event-stream";
    return new Response(body, { status: connection.status ?? 200, headers: { "content-type": type } });
  };
  const fetch = resumableFetch({ fetch: send as typeof globalThis.fetch, delayMs: 1, attempts: 3, ...options });
  return { sent, ask: (init = {}) => fetch("http://edge", { method: "POST", body: "{}", ...init }) };
}

/** A connection that is reset after these events. */
const reset = (...events: string[]): Connection => ({ events, end: "error" });
const event = (n: number) => `id: ${n}\ndata: {"n":${n}}\n\n`;
const done = "data: [DONE]\n\n";
const heartbeat = ": hb\n\n";

test("events come once and in order, over connections that are lost before, between and inside them", async () => {
  const { ask, sent } = scripted([
    "lost",
    reset(heartbeat),
    reset(event(1), event(2), "id: 3\nda"),
    "lost",
    { events: [heartbeat, event(3)], end: "close" },
    { events: [event(4), done], end: "close" },
  ]);
  const text = await (await ask()).text();
  expect(text.replaceAll(heartbeat, "")).toBe([1, 2, 3, 4].map(event).join("") + done);
  expect(new Set(sent.map(({ key }) => key)).size).toBe(1);
  expect(sent.map(({ lastId }) => lastId)).toEqual([null, null, null, "2", "2", "3"]);
});

test.each<[string, Connection[], number]>([
  ["brings heartbeats alone", Array(9).fill(reset(heartbeat)), 4],
  ["has begun without ids", [reset('data: {"n":1}\n\n')], 1],
  ["is refused when it is resumed", [reset(event(1)), { events: ['{"error":{}}'], end: "close", status: 409 }], 2],
])("a stream that %s ends in an error after a bounded number of tries", async (_, connections, tries) => {
  const { ask, sent } = scripted(connections);
  await expect((await ask()).text()).rejects.toThrow();
  expect(sent).toHaveLength(tries);
});

test("an error event ends the stream: nothing is resumed after it", async () => {
  const failed = 'data: {"error":{"message":"m"}}\n\n';
  const { ask, sent } = scripted([reset(event(1), failed)]);
  await expect((await ask()).text()).rejects.toThrow("reset");
  expect(sent).toHaveLength(1);
});

const silent: Connection = { events: [event(1)], end: "silent" };

test("a connection without a byte for too long counts as lost", async () => {
  const { ask } = scripted([silent, { events: [done], end: "close" }], { silenceMs: 20 });
  expect(await (await ask()).text()).toBe(event(1) + done);
});

test("a client that stops reading or aborts does not wait for a dead connection, and sends nothing more", async () => {
  const { ask, sent } = scripted([silent, silent]);
  for await (const _ of (await ask()).body!) break;
  const left = new AbortController();
  const reading = (await ask({ signal: left.signal })).text();
  left.abort(new Error("left"));
  await expect(reading).rejects.toThrow("left");
  expect(sent).toHaveLength(2);
});
