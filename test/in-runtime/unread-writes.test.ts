/** The Worker reads a cell's next bytes while its client has yet to take those before: what is lost or left in between. */
import { expect, test, vi } from "vitest";
import type { CellNamespace } from "../../edge/cells/cell-names.ts";
import { createCells } from "../../edge/cells/resumable-answer.ts";
import type { CellRequest } from "../../edge/completions/cell-request.ts";
import { mark, marksHeader } from "../../edge/completions/marks.ts";
import { defaultRegion } from "../../edge/platform/region.ts";
import type { ServiceError } from "../../shared/errors.ts";

const head = { "content-type": "text/event-stream", [marksHeader]: "1" };
const { signal } = new AbortController();

/** A cell's answer that a test makes by hand. */
function handMade() {
  let controller!: ReadableStreamDefaultController<Uint8Array>;
  const cell = {
    /** Reads that found nothing and waited. */
    reads: 0,
    isLeft: false,
    send: (text: string) => controller.enqueue(new TextEncoder().encode(text)),
    lose: () => controller.error(new Error("its machine is gone")),
    close: () => controller.close(),
    body: new ReadableStream<Uint8Array>(
      {
        start: (its) => {
          controller = its;
        },
        pull: () => {
          cell.reads++;
        },
        cancel: () => {
          cell.isLeft = true;
        },
      },
      { highWaterMark: 0 },
    ),
  };
  return cell;
}

/** Asks for an answer; `requests`: what each cell was asked. */
async function asked(stream: boolean) {
  const answers = [handMade(), handMade()];
  const requests: CellRequest[] = [];
  const namespace: CellNamespace = () => ({
    fetch: async (_, { body }) => {
      const { body: answer } = answers[requests.length];
      requests.push(JSON.parse(String(body)));
      return new Response(answer, { headers: head });
    },
  });
  const cells = createCells({ namespace, cellsPerRegion: 4, now: () => 0, lost: () => undefined });
  const request = { admitted: { tenant: "a" }, plan: { choices: [] as unknown }, stream } as CellRequest;
  const { response, completed } = await cells(request, defaultRegion, signal);
  const ended = completed!.then(
    () => null,
    (error: ServiceError) => error.kind,
  );
  const readsOfFirst = (count: number) => vi.waitFor(() => expect(answers[0].reads).toBe(count), { interval: 1 });
  return { answers, requests, response, ended, readsOfFirst };
}

test("a client that leaves is told to a cell that sends nothing more", async () => {
  const { answers, requests, response, ended, readsOfFirst } = await asked(true);
  const reader = response.body!.getReader();
  answers[0].send(`A${mark("1:1")}`);
  await reader.read();
  await readsOfFirst(2);
  answers[0].send(`B${mark("2:2")}`);
  await readsOfFirst(3);
  await reader.cancel();
  await vi.waitFor(() => expect(answers[0].isLeft).toBe(true));
  expect(await ended).toBe("cancelled");
  expect(requests).toHaveLength(1);
});

test("a cell that is lost is followed by one that goes on after what was written", async () => {
  const { answers, requests, response, ended, readsOfFirst } = await asked(true);
  answers[0].send(`A${mark("1:1")}`);
  await readsOfFirst(2);
  answers[0].send(`B${mark("2:2")}C`);
  answers[0].lose();
  answers[1].send(`C${mark("3:3")}D${mark("end")}`);
  answers[1].close();
  expect(await response.text()).toBe("ABCD");
  expect(await ended).toBeNull();
  expect(requests.map(({ resumeFrom }) => resumeFrom)).toEqual([undefined, "2:2"]);
});

test("a client that leaves while the next cell is asked is told to that one", async () => {
  const { answers, response, ended, readsOfFirst } = await asked(true);
  answers[0].send(`A${mark("1:1")}`);
  await readsOfFirst(2);
  answers[0].lose();
  await response.body!.cancel();
  await vi.waitFor(() => expect(answers[1].isLeft).toBe(true));
  expect(await ended).toBe("cancelled");
});

test("a whole answer that fails in its middle does not end as a complete one", async () => {
  const { answers, response, ended, readsOfFirst } = await asked(false);
  answers[0].send('{"a":');
  await readsOfFirst(2);
  answers[0].lose();
  await expect(response.text()).rejects.toThrow();
  expect(await ended).toBe("backend_unavailable");
});

test("no more is read than the one write that the client has yet to take, and the one after it", async () => {
  let sent = 0;
  const body = new ReadableStream<Uint8Array>(
    {
      pull(controller) {
        const text = `${++sent}\n${mark(sent === 50 ? "end" : `${sent}:1`)}`;
        controller.enqueue(new TextEncoder().encode(text));
        if (sent === 50) controller.close();
      },
    },
    { highWaterMark: 0 },
  );
  const namespace: CellNamespace = () => ({ fetch: async () => new Response(body, { headers: head }) });
  const cells = createCells({ namespace, cellsPerRegion: 4, now: () => 0, lost: () => undefined });
  const request = { admitted: { tenant: "a" }, plan: { choices: [] as unknown }, stream: true } as CellRequest;
  const { response, completed } = await cells(request, defaultRegion, signal);
  let taken = 0;
  for await (const _ of response.body!) expect(sent).toBeLessThanOrEqual(++taken + 2);
  expect(taken).toBe(50);
  await completed;
});
