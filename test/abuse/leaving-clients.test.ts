/**
 * Attack: rounds of clients that leave in the middle of a stream, a whole answer, large embeddings or their own body. Judged by:
 * the resident memory of the Worker's process, which must stop growing after the first rounds.
 */
import { expect, test } from "vitest";
import { stopAtEnd } from "../support/at-end.ts";
import { longestTokens, startFakeBackend } from "../support/fake-backend.ts";
import { postBytes, sendAndNeverRead } from "./clients.ts";
import { startAttackedEdge } from "./edge.ts";
import { megabytes, residentBytes } from "./measurements.ts";

const rounds = 36;
const clients = 60;
/** Maximum ratio of the largest resident memory in the last third of the rounds to that in the second. In the first the heap grows. */
const mostGrowthRatio = 1.15;

const generation = { prompt: "Once", n: 4, max_tokens: 200 };
const requests = [
  postBytes("/v1/completions", "leaving", { ...generation, stream: true }),
  postBytes("/v1/completions", "leaving", generation),
  postBytes("/v1/embeddings", "leaving", { input: Array(500).fill("Once upon a time") }),
  postBytes("/v1/completions", "leaving", generation, 5000),
];

test("the memory of the Worker's process levels off under clients that leave", async () => {
  const { url, counts } = stopAtEnd(await startFakeBackend({ stepMs: 10, tokenIds: await longestTokens(4) }));
  const { port, pid, ask } = await startAttackedEdge([url], { leaving: {}, quiet: {} });
  const after: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const begun = (await counts()).sequences;
    const sockets = await Promise.all(
      Array.from({ length: clients }, (_, i) => sendAndNeverRead(port, requests[i % requests.length])),
    );
    await expect.poll(async () => (await counts()).sequences, { timeout: 30_000 }).toBeGreaterThan(begun);
    for (const socket of sockets) socket.destroy();
    await expect.poll(async () => (await counts()).running, { timeout: 60_000 }).toBe(0);
    await ask("/v1/completions", "quiet", { prompt: "Once", max_tokens: 2 });
    after.push(residentBytes(pid));
  }
  console.log(`after ${rounds} rounds of ${clients} clients that leave: ${after.map(megabytes).join(", ")}`);
  const third = rounds / 3;
  const [second, last] = [after.slice(third, 2 * third), after.slice(2 * third)].map((some) => Math.max(...some));
  expect(last / second).toBeLessThanOrEqual(mostGrowthRatio);
});
