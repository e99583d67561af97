/**
 * Attack: rounds of clients that leave in the middle of a stream, a whole answer, large embeddings or their own body. Judged by:
 * the Worker's memory, which must stop growing after the first rounds.
 */
import type { Socket } from "node:net";
import { afterEach, expect, test } from "vitest";
import { type FakeBackend, longestTokens, startFakeBackend } from "../support/fake-backend.ts";
import { postBytes, sendAndNeverRead } from "./clients.ts";
import { type AttackedEdge, startAttackedEdge } from "./edge.ts";
import { megabytes, residentBytes } from "./measurements.ts";

const rounds = 36;
const clients = 60;
/** Maximum ratio of the memory after all rounds to that after two thirds. The first third is left out: there the heap grows to its size. */
const mostGrowthRatio = 1.15;

let backend: FakeBackend | undefined;
let edge: AttackedEdge | undefined;
afterEach(async () => {
  await edge?.stop();
  await backend?.stop();
});

const generation = { prompt: "Once", n: 4, max_tokens: 200 };
const requests = [
  postBytes("/v1/completions", "leaving", { ...generation, stream: true }),
  postBytes("/v1/completions", "leaving", generation),
  postBytes("/v1/embeddings", "leaving", { input: Array(500).fill("Once upon a time") }),
  postBytes("/v1/completions", "leaving", generation, 5000),
];

test("the memory of the Worker's process levels off under clients that leave", async () => {
  backend = await startFakeBackend({ stepMs: 10, tokenIds: await longestTokens(4) });
  edge = await startAttackedEdge({ backendUrls: [backend.url], tenants: { leaving: {}, quiet: {} } });
  const { port, pid, post } = edge;
  const counts = backend.counts;
  const after: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const begun = (await counts()).sequences;
    const sockets: Socket[] = await Promise.all(
      Array.from({ length: clients }, (_, i) => sendAndNeverRead(port, requests[i % requests.length])),
    );
    await expect.poll(async () => (await counts()).sequences, { timeout: 30_000 }).toBeGreaterThan(begun);
    for (const socket of sockets) socket.destroy();
    await expect.poll(async () => (await counts()).running, { timeout: 60_000 }).toBe(0);
    const response = await post("/v1/completions", "quiet", { prompt: "Once", max_tokens: 2 });
    expect(response.status, await response.text()).toBe(200);
    after.push(residentBytes(pid));
  }
  console.log(`after ${rounds} rounds of ${clients} clients that leave: ${after.map(megabytes).join(", ")}`);
  const third = rounds / 3;
  const [second, last] = [after.slice(third, 2 * third), after.slice(2 * third)].map((some) => Math.max(...some));
  expect(last / second).toBeLessThanOrEqual(mostGrowthRatio);
});
