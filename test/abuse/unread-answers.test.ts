/**
 * Attack: connections that request the largest embeddings and never read them. Judged by the bytes that the edge holds for them, by the
 * attacker's limit of concurrent requests, and by another tenant's p95 latency, compared with its p95 latency beside as many connections
 * that read equally large answers.
 */
import { expect, test } from "vitest";
import { limits } from "../../shared/contracts/limits.ts";
import { postBytes, sendAndNeverRead } from "./clients.ts";
import { startAttackedEdge } from "./edge.ts";
import { megabytes, mostGrowthBytes, mostVictimRatio, p95, residentBytes } from "./measurements.ts";

const clients = 90;
const concurrentRequests = 8;
const body = JSON.stringify({ input: Array(limits.embeddingInputs).fill("Once upon") });

const tenants = { unlimited: {}, reading: {}, limited: { concurrentRequests }, quiet: {} };
/** Starts an edge whose backend's address nobody listens on. Embeddings need no backend. */
const startEdge = () => startAttackedEdge(["http://127.0.0.1:9"], tenants);

test(`${clients} unread answers of embeddings hold few bytes and slow nobody else`, async () => {
  const edge = await startEdge();
  const short = () => edge.ask("/v1/embeddings", "quiet", { input: "Once" });
  /** p95 latency of another tenant's requests. One request follows each new connection of the attacker. */
  const p95While = async (connect: () => Promise<unknown>) => {
    const times: number[] = [];
    for (let i = 0; i < clients; i++) {
      await connect();
      const startMs = performance.now();
      await short();
      times.push(performance.now() - startMs);
    }
    return p95(times);
  };
  const heldBytes = await edge.watchHeap(short);
  const bytes = postBytes("/v1/embeddings", "unlimited", body);
  await short();
  const before = await heldBytes();
  const answers: Promise<number>[] = [];
  const read = await p95While(async () => {
    const response = edge.post("/v1/embeddings", "reading", body);
    answers.push(response.then(async (one) => one.bytes().then(() => one.status)));
  });
  // No answer breaks off. While a tenant holds its maximum of unread answers, its further requests are refused with 429.
  const statuses = new Set(await Promise.all(answers));
  expect([...statuses].filter((status) => status !== 200 && status !== 429)).toEqual([]);
  const residentBefore = residentBytes(edge.pid);
  const unread = await p95While(() => sendAndNeverRead(edge.port, bytes));
  const held = (await heldBytes()) - before;
  // Resident memory is measured, too, because the heap does not include what the runtime holds.
  const grown = residentBytes(edge.pid) - residentBefore;
  console.log(
    `${clients} unread answers: ${megabytes(held)} held, ${megabytes(grown)} more resident; p95 of another tenant ${read.toFixed(1)} ms beside ones that are read, ${unread.toFixed(1)} ms`,
  );
  expect(held).toBeLessThan(24 * 2 ** 20);
  expect(grown).toBeLessThanOrEqual(mostGrowthBytes);
  expect(unread / read).toBeLessThanOrEqual(mostVictimRatio);
});

test("unread answers count as requests at once until they are gone", async () => {
  const edge = await startEdge();
  const statusNow = async () => {
    const response = await edge.post("/v1/embeddings", "limited", body);
    await response.bytes();
    return response.status;
  };
  // Each connection sends three requests: the kernel may buffer one answer whole (4 MB), and the request of that answer has then ended.
  const bytes = Buffer.concat(Array<Buffer>(3).fill(postBytes("/v1/embeddings", "limited", body)));
  const sockets = await Promise.all(
    Array.from({ length: concurrentRequests }, () => sendAndNeverRead(edge.port, bytes)),
  );
  const patience = { timeout: 60_000, interval: 100 };
  // The request of `statusNow` may have made the edge refuse that of a connection. So another connection is opened after each 200.
  const statusThen = async () => {
    const status = await statusNow();
    if (status === 200) sockets.push(await sendAndNeverRead(edge.port, bytes));
    return status;
  };
  await expect.poll(statusThen, patience).toBe(429);
  expect(sockets.length).toBeLessThanOrEqual(2 * concurrentRequests);
  for (const socket of sockets) socket.destroy();
  await expect.poll(statusNow, patience).toBe(200);
});
