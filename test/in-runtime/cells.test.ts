import { describe, expect, test } from "vitest";
import { SentEvents, type StreamCursor, streamStart } from "../../edge/answer/sent-events.ts";
import { type CellNamespace, cellsOf, cellUrl } from "../../edge/cell/cell-names.ts";
import { type CellRequest, cellRequestVersion, readRefusal, refusalResponse } from "../../edge/cell/cell-request.ts";
import { createCells } from "../../edge/cell/resumable-answer.ts";
import { NotTaken } from "../../edge/dispatch/dispatcher.ts";
import { defaultRegion } from "../../edge/platform/region.ts";
import { ServiceError } from "../../shared/errors.ts";
import { byChoice, eventsOf, untimedEvents } from "./answers.ts";
import { backendAnswers, saying } from "./backend.ts";
import { messageToCell, testApp } from "./harness.ts";
import { localCell } from "./objects.ts";

const { signal } = new AbortController();
const requestOf = (tenant: string) => ({ admitted: { tenant }, plan: { choices: [] as unknown } }) as CellRequest;

function scripted(answer: (name: string, call: number) => Response | Promise<Response>) {
  const asked: string[] = [];
  const namespace: CellNamespace = (name) => ({ fetch: async () => answer(name, asked.push(name)) });
  return { asked, cells: createCells({ namespace, cellsPerRegion: 4, now: () => 0, lost: () => undefined }) };
}

const full = () => refusalResponse(new NotTaken("overloaded", "no room"));

describe("cells of a region", () => {
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

  test("any other refusal is passed on, and no further cell is asked", async () => {
    const refusal = new ServiceError("overloaded", "backends are busy", { retryAfterSeconds: 3 });
    const { cells, asked } = scripted(() => refusalResponse(refusal));
    await expect(cells(requestOf("a"), "oc", signal)).rejects.toEqual(refusal);
    expect(asked).toHaveLength(1);
  });
});

const body = {
  ...{ prompt: ["aaa", "bbb"], n: 2, stream: true, logprobs: 2, max_tokens: 6 },
  ...{ seed: 5, temperature: 1, stop: ["zz"] },
};
const says = (text: string) => backendAnswers(({ id }) => saying(id, text, { logprob: -1 }));
const askCell = (message: object) => localCell().fetch(cellUrl, { method: "POST", body: JSON.stringify(message) });

describe("Worker and cell of different versions, as while a deploy spreads", () => {
  test.each([cellRequestVersion + 1, cellRequestVersion - 1, undefined])(
    "the cell refuses a message of version %s as one that it did not take",
    async (version) => {
      const seen = says("b");
      const response = await askCell({ ...(await messageToCell(body)), version });
      expect(response.status).toBe(503);
      expect(await readRefusal(response)).toMatchObject({ constructor: NotTaken, kind: "backend_unavailable" });
      expect(seen.batches).toEqual([]);
    },
  );

  test("the next cell is asked, and answers if it is of the Worker's version", async () => {
    says("bcd");
    const asked: string[] = [];
    const namespace: CellNamespace = (name) => ({
      async fetch(url, init) {
        const message = JSON.parse(String(init.body));
        const version = asked.push(name) === 1 ? cellRequestVersion + 1 : cellRequestVersion;
        return localCell().fetch(url, { ...init, body: JSON.stringify({ ...message, version }) });
      },
    });
    const cells = createCells({ namespace, cellsPerRegion: 4, now: () => 0, lost: () => undefined });
    const response = await testApp({ cells }).complete(body);
    const data = await eventsOf(response);
    expect([response.status, data.at(-1)]).toEqual([200, "[DONE]"]);
    expect(asked).toEqual(cellsOf("local", defaultRegion, 4).slice(0, 2));
  });
});

test.each(["completion", "chat"])(
  "a cell that resumes a stream sends what the client lacks, wherever the stream broke off: %s",
  async (form) => {
    says("bcd");
    const message = { ...(await messageToCell(body)), form, includeUsage: true };
    const eventsFrom = async (resumeFrom?: StreamCursor) => {
      const answer = await askCell({ ...message, resumeFrom, isResumed: resumeFrom !== undefined });
      return untimedEvents(await answer.text());
    };
    const whole = await eventsFrom();
    expect(whole).toHaveLength(4 * 4 + 2);
    for (let sent = 0; sent < whole.length; sent++) {
      const client = new SentEvents(streamStart(4));
      for (const event of whole.slice(0, sent)) client.add(new TextEncoder().encode(`${event}\n\n`));
      expect(byChoice(await eventsFrom(client.cursor)), `${sent} events`).toEqual(byChoice(whole.slice(sent)));
    }
  },
);
