import { describe, expect, test } from "vitest";
import { z } from "zod";
import { NotTaken } from "../../edge/batching/batch-client.ts";
import { type CellNamespace, cellsOf, cellUrl } from "../../edge/cells/cell-names.ts";
import { readRefusal, refusalResponse } from "../../edge/cells/refusal.ts";
import { createCells } from "../../edge/cells/resumable-answer.ts";
import {
  type CellRequest,
  cellRequestSchema,
  cellRequestVersion,
  readCellRequest,
  resumableHeader,
} from "../../edge/completions/cell-request.ts";
import { SentEvents, type StreamCursor } from "../../edge/completions/sent-events.ts";
import { defaultRegion, regions } from "../../edge/platform/region.ts";
import { ServiceError } from "../../shared/errors.ts";
import { sha256Hex } from "../../shared/sha256.ts";
import recorded from "../support/cell-request-v1.json";
import {
  backendAnswers,
  byteStream,
  eventsOf,
  localCell,
  manifestHash,
  saying,
  testApp,
  useNetwork,
} from "./harness.ts";

useNetwork();

const { signal } = new AbortController();
const requestOf = (tenant: string) => ({ admitted: { tenant }, plan: { choices: [] as unknown } }) as CellRequest;

/** Cells that answer by a script, and who was asked. */
function scripted(answer: (name: string, call: number) => Response | Promise<Response>) {
  const asked: string[] = [];
  const namespace: CellNamespace = (name) => ({ fetch: async () => answer(name, asked.push(name)) });
  return { asked, cells: createCells({ namespace, cellsPerRegion: 4, now: () => 0, lost: () => undefined }) };
}

const full = () => refusalResponse(new NotTaken("overloaded", "no room"));

describe("cells of a region", () => {
  test("are preferred evenly, each tenant's always in the same order, and only the caller's region is asked", () => {
    const preferred = new Map<string, number>();
    for (let i = 0; i < 4000; i++) {
      const [first] = cellsOf(`tenant-${i}`, "weur", 4);
      preferred.set(first, (preferred.get(first) ?? 0) + 1);
    }
    expect([...preferred.keys()].sort()).toEqual([0, 1, 2, 3].map((i) => `cell-weur-${i}`));
    for (const tenants of preferred.values()) expect(Math.abs(tenants - 1000)).toBeLessThan(150);
    for (const region of regions) {
      const names = cellsOf("a", region, 3);
      expect(names.every((name) => name.startsWith(`cell-${region}-`))).toBe(true);
      expect(cellsOf("a", region, 3)).toEqual(names);
    }
  });

  test("a full cell passes its request to the tenant's next one, once", async () => {
    const order = cellsOf("a", "oc", 4);
    const spilled = scripted((_, call) => (call === 1 ? full() : new Response("yes")));
    expect(await (await spilled.cells(requestOf("a"), "oc", signal)).response.text()).toBe("yes");
    expect(spilled.asked).toEqual(order.slice(0, 2));
    const refused = scripted(full);
    await expect(refused.cells(requestOf("a"), "oc", signal)).rejects.toThrow(NotTaken);
    expect(refused.asked).toEqual(order.slice(0, 2));
    const overloaded = scripted((_, call) =>
      call === 1 ? Promise.reject(Object.assign(new Error("queue"), { overloaded: true })) : new Response("yes"),
    );
    expect((await overloaded.cells(requestOf("a"), "oc", signal)).response.status).toBe(200);
  });

  test("any other refusal is the request's own", async () => {
    const refusal = new ServiceError("overloaded", "backends are busy", { retryAfterSeconds: 3 });
    const { cells, asked } = scripted(() => refusalResponse(refusal));
    await expect(cells(requestOf("a"), "oc", signal)).rejects.toEqual(refusal);
    expect(asked).toHaveLength(1);
  });
});

/** A stream of four choices as the Worker of version 1 asked for it, here of the tests' artifacts. */
async function recordedRequest(): Promise<typeof recorded> {
  return { ...recorded, plan: { ...recorded.plan, manifestHash: await manifestHash() } };
}
const recordedBody = {
  ...{ prompt: ["aaa", "bbb"], n: 2, stream: true, logprobs: 2, max_tokens: 6 },
  ...{ seed: 5, temperature: 1, stop: ["zz"] },
};
const says = (text: string) => backendAnswers(({ id }) => saying(id, text, { logprob: -1 }));
const askCell = (message: object) => localCell().fetch(cellUrl, { method: "POST", body: JSON.stringify(message) });

/** Paths of the fields that `one` has and `other` lacks, or has as another type. */
function missingFields(one: unknown, other: unknown, at = ""): string[] {
  if (typeof one !== typeof other || Array.isArray(one) !== Array.isArray(other)) return [at];
  if (typeof one !== "object" || one === null) return [];
  return Object.entries(one).flatMap(([name, value]) =>
    missingFields(value, (other as Record<string, unknown> | null)?.[name], `${at}/${name}`),
  );
}

describe("releases next to each other", () => {
  test("a Worker of version 1 has the same stream of a cell, without a header for newer ones", async () => {
    says("bcd");
    const response = await askCell(await recordedRequest());
    expect([response.status, response.headers.has(resumableHeader)]).toEqual([200, false]);
    const { data } = await eventsOf(response);
    expect(data.filter((event) => (event as { choices?: { text: string }[] }).choices?.[0].text !== "")).toHaveLength(
      4 * 3 + 1,
    );
    expect(data[0]).toMatchObject({ id: recorded.envelope.id, created: recorded.envelope.created });
    expect(data.at(-1)).toBe("[DONE]");
  });

  test("a cell of version 1 finds all its fields in our message, and its answer reaches the client as it is", async () => {
    const sent: string[] = [];
    const stream = "data: {}\n\ndata: [DONE]\n\n";
    const namespace: CellNamespace = () => ({
      async fetch(url, { body }) {
        // It takes any other for a call of another cell.
        expect(url).toBe("https://shard/order");
        sent.push(String(body));
        return new Response(byteStream([stream]), { headers: { "content-type": "text/event-stream" } });
      },
    });
    const cells = createCells({ namespace, cellsPerRegion: 4, now: () => 0, lost: () => undefined });
    const response = await testApp({ cells }).complete(recordedBody);
    expect(await response.text()).toBe(stream);
    expect(response.headers.get("content-type")).toBe("text/event-stream");
    const [body] = sent;
    // No cell reads an assignment's mixture: its sequence has the same.
    const missing = missingFields(recorded, JSON.parse(body)).filter((path) => !path.endsWith("/assignment/mixture"));
    expect(missing).toEqual([]);
    // Batches of one place are answered by the cell that is asked.
    expect(new Set(JSON.parse(body).places).size).toBe(1);
  });

  test("a Worker of the next version is answered: unknown fields are passed on, missing ones have defaults", async () => {
    const seen = says("b");
    const message = structuredClone(await recordedRequest());
    for (const { sequence } of message.plan.choices) {
      Object.assign(sequence.sampling, { topK: undefined, minTokens: undefined });
    }
    const next = { ...message, version: cellRequestVersion + 1, newField: {} };
    const response = await askCell(next);
    expect([response.status, response.headers.has(resumableHeader)]).toEqual([200, true]);
    expect(await response.text()).toContain("[DONE]");
    expect(seen.batches.flatMap(({ sequences }) => sequences)).toMatchObject(
      Array.from({ length: 4 }, () => ({ sampling: { topK: 0, minTokens: 0 } })),
    );
    Object.assign(next.plan.choices[0].sequence.sampling, { newField: 1 });
    expect(readCellRequest(next).plan.choices[0].sequence.sampling).toMatchObject({ newField: 1 });
  });

  test("a cell takes the versions since the last release, and the next one", async () => {
    says("b");
    const message = await recordedRequest();
    const statuses: number[] = [];
    for (let version = 1; version <= cellRequestVersion + 1; version++) {
      const response = await askCell({ ...message, version });
      statuses.push(response.status);
      expect(await response.text()).toContain("[DONE]");
    }
    expect(statuses).toEqual([200, 200, 200, 200, 200]);
  });

  test("a message of the cell's own version is taken as it is", () => {
    const own = { ...recorded, version: cellRequestVersion };
    expect(readCellRequest(own)).toBe(own);
  });

  // Where this fails, cellRequestVersion must go up: a cell takes any message of its version unchecked.
  test("the schema changes only with the version", async () => {
    const schema = z.toJSONSchema(cellRequestSchema, { io: "input", unrepresentable: "any" });
    const digest = await sha256Hex(new TextEncoder().encode(JSON.stringify(schema)));
    expect([cellRequestVersion, digest]).toEqual([
      4,
      "118f7f14d770076b5c448afded31c9239dc9e1d50e9d98c2043aca491e2c73bb",
    ]);
  });

  test.each([
    ["of a version that is too new", { version: cellRequestVersion + 2 }, /version 6, cell of 4/],
    ["without a plan", { plan: null }, /plan/],
  ])("a message %s is refused, as one that was not taken", async (_, change, says) => {
    const response = await askCell({ ...(await recordedRequest()), ...change });
    expect(response.status).toBe(503);
    expect(await readRefusal(response)).toMatchObject({
      constructor: NotTaken,
      kind: "backend_unavailable",
      message: expect.stringMatching(says),
    });
  });
});

describe("a cell that goes on with a stream", () => {
  test.each(["completion", "chat"])("sends what the client has not, wherever that is: %s", async (form) => {
    says("bcd");
    const message = { ...(await recordedRequest()), version: cellRequestVersion, form, includeUsage: true };
    const eventsFrom = async (resumeFrom?: StreamCursor) => {
      const text = await (await askCell({ ...message, resumeFrom, isResumed: resumeFrom !== undefined })).text();
      const events = text.replaceAll(/"timings":\{[^}]*\}/g, '"timings":{}').split(/(?<=\n\n)/);
      return events.filter((event) => event.startsWith("data: "));
    };
    /** Choices may come in any order. */
    const byChoice = (events: string[]) => Map.groupBy(events, (event) => /"index":(\d)/.exec(event)?.[1]);
    const whole = await eventsFrom();
    expect(whole).toHaveLength(4 * 4 + 2);
    for (let sent = 0; sent < whole.length; sent++) {
      const client = new SentEvents(4);
      for (const event of whole.slice(0, sent)) client.add(new TextEncoder().encode(event));
      expect(byChoice(await eventsFrom(client.cursor)), `${sent} events`).toEqual(byChoice(whole.slice(sent)));
    }
  });
});

describe("a cell is told to load its artifacts", () => {
  test("by the request that it will answer, before that is read; and says when it has", async () => {
    const told: unknown[] = [];
    const { complete, post, request } = testApp({
      wakeCell: (tenant, region) => void told.push([tenant, region]),
    });
    expect((await complete({ prompt: 1 })).status).toBe(400);
    expect((await post("/v1/chat/completions", "{")).status).toBe(400);
    expect((await request("/v1/models")).status).toBe(200);
    expect(told).toEqual(Array(2).fill(["local", defaultRegion]));
    const response = await localCell().fetch("https://shard/order");
    expect([response.status, await response.text()]).toEqual([204, ""]);
  });
});
