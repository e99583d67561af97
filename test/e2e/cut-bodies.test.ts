/** Clients that leave in the middle of a body, against the Worker in a bare workerd: none of their requests stays in memory. */
import { expect, test } from "vitest";
import { send } from "../fuzz/requests/send.ts";
import { atEnd, stopAtEnd } from "../support/at-end.ts";
import { watchHeap } from "../support/live-heap.ts";
import { startEdge } from "../support/stack.ts";

/** A key for each of the parallel clients, because the edge delays a burst of requests with one key. */
const keys = Array.from({ length: 16 }, (_, i) => `sk-chameleon-cut-${i}`);
/** Requests before the first measurement: the inspector keeps a thousand log lines, so the heap grows until then. */
const warmUp = 1200;
const cut = 3000;
/** Maximum bytes that a request may leave. An unreleased request leaves 1700; the isolate's other work changes the figure by up to 300. */
const bytesEach = 800;

test("a body that breaks off is released with its request", async () => {
  const tenants = Object.fromEntries(keys.map((key) => [key, "cut"]));
  const edge = stopAtEnd(await startEdge({ keys: tenants }, { isInspected: true }));
  const heap = await watchHeap(edge.inspector!("edge"), async () => {
    await (await fetch(`${edge.url}/healthz`)).arrayBuffer();
  });
  atEnd(heap.close);
  const cutMany = async (requests: number) => {
    let left = requests;
    const lane = async (key: string) => {
      while (left-- > 0) await cutOne(key, Number(new URL(edge.url).port));
    };
    await Promise.all(keys.map(lane));
  };

  await cutMany(warmUp);
  const before = await heap.live();
  await cutMany(cut);
  const after = await heap.live();

  const grown = after.heap + after.buffers - before.heap - before.buffers;
  expect(grown).toBeLessThan(cut * bytesEach);
});

/** Sends a request without the end of its body. Most such requests end while the Worker reads the body and must release its buffer. */
async function cutOne(key: string, port: number): Promise<void> {
  const body = new TextEncoder().encode(JSON.stringify({ prompt: "If Tom has 5 apples", max_tokens: 2 }));
  const head = [
    "POST /v1/completions HTTP/1.1",
    "host: edge",
    `authorization: Bearer ${key}`,
    "content-type: application/json",
    `content-length: ${body.byteLength}`,
  ];
  const delivery = { kind: "cut-request", share: 0.9, waitMs: 0 } as const;
  await send({ head: `${head.join("\r\n")}\r\n\r\n`, body, delivery }, port, 5000);
}
