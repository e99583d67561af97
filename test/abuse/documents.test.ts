/**
 * Attack: endless documents, ten thousand documents of one word, a document that repeats one token, and a full disk. Judged by an answer or
 * a clear error for each, by the edge's resident memory, and by a neighbour's latency, compared with that beside as many harmless uploads.
 */
import { connect } from "node:net";
import { describe, expect, test } from "vitest";
import { limits } from "../../shared/contracts/limits.ts";
import type { Adapter, CompletionResponse } from "../../shared/contracts/responses.ts";
import { postBytes } from "./clients.ts";
import { startAttacked } from "./edge.ts";
import { forgetPeak, mostGrowthBytes, mostVictimRatio, p95Beside, peakBytes, residentBytes } from "./measurements.ts";

const words = "river stone copper lantern orchard winter signal harbour".split(" ");
const harmlessDocuments = Array.from({ length: 20 }, (_, i) => `${i} ${words.join(" ")}`);

// `harmless` and `attacker` upload under one adapter name each: the first whole upload makes the adapter, later ones are read and refused.
const tenants = { owner: {}, neighbour: {}, harmless: {}, attacker: {} };
// Writes below /dev/null fail, as on a full disk.
const { backend, edge } = await startAttacked(tenants, { DATA_DIR: "/dev/null/data" });

const completion = { prompt: "Once upon a time", max_tokens: 4, temperature: 0 };
const completeAs = (tenant: string, more: object = {}) =>
  edge.ask<CompletionResponse>("/v1/completions", tenant, { ...completion, ...more });

/** Sends `head` and then `piece` repeatedly until an answer comes. Resolves to the answer and the number of bytes sent. */
function sendUntilAnswered(head: Buffer, piece: Buffer): Promise<{ answer: string; sentBytes: number }> {
  const socket = connect(edge.port, "127.0.0.1");
  const { promise, resolve } = Promise.withResolvers<{ answer: string; sentBytes: number }>();
  let answer = "";
  socket.on("data", (chunk) => {
    answer += chunk;
    if (/"error".*\}\}/s.test(answer)) socket.destroy();
  });
  // A reset after an early refusal is expected: by then the answer has been received or is lost.
  socket.on("error", () => {});
  socket.on("close", () => resolve({ answer, sentBytes: socket.bytesWritten }));
  const more = () => {
    while (!socket.destroyed && answer === "" && socket.write(piece));
  };
  socket.on("drain", more);
  socket.write(head, more);
  return promise;
}

describe("a clear error, or an answer:", () => {
  test("a disk that takes nothing: the memory is served from what the backend holds, and refused where it cannot", async () => {
    await edge.ask("/v1/adapters", "owner", { name: "diskless", documents: harmlessDocuments }, 201);
    const { choices } = await completeAs("owner", { chameleon: { adapter: "diskless", sources: true } });
    expect(choices[0].chameleon!.memories).toEqual([{ id: "diskless", brake: expect.any(Number) }]);
    expect(await backend.metric("chameleon_memory_write_failures_total")).toBeGreaterThan(0);
  });

  test("an upload of two gigabytes in chunks, where it passes the limit", async () => {
    const piece = Buffer.alloc(2 ** 20, "a");
    const chunk = Buffer.concat([Buffer.from(`${piece.length.toString(16)}\r\n`), piece, Buffer.from("\r\n")]);
    const beforeBytes = residentBytes(edge.pid);
    forgetPeak(edge.pid);
    const { answer, sentBytes } = await sendUntilAnswered(chunkedHead("owner"), chunk);
    expect(peakBytes(edge.pid) - beforeBytes).toBeLessThan(mostGrowthBytes + limits.documentBodyBytes);
    // A client that still sends may lose the refusal, because a reset follows the refusal.
    if (answer !== "") expect(answer).toContain(`the maximum is ${limits.documentBodyBytes}`);
    expect(sentBytes).toBeLessThan(4 * limits.documentBodyBytes);
  });

  test("ten thousand documents of one word", async () => {
    const documents = Array.from({ length: limits.documents }, (_, i) => words[i % words.length]);
    const made = await edge.post("/v1/adapters", "owner", { name: "short", documents });
    expect([201, 202], await made.text()).toContain(made.status);
    const memory = async () => ((await (await edge.get("/v1/adapters/short", "owner")).json()) as Adapter).memory!;
    await expect.poll(async () => (await memory()).status, { timeout: 60_000, interval: 200 }).toBe("ready");
    expect((await memory()).documents).toBe(limits.documents);
    await completeAs("owner", { model: "gpt2:short" });
  });

  test("a document of one token, over and over", async () => {
    await edge.ask("/v1/adapters", "owner", { name: "again", documents: [" the".repeat(12_000)] }, 201);
    const asked = { prompt: " the".repeat(20), logprobs: 2, chameleon: { adapter: "again", sources: true } };
    const { choices } = await completeAs("owner", asked);
    expect(choices[0].logprobs!.token_logprobs.every((one) => Number.isFinite(one) && one! <= 0)).toBe(true);
  });
});

function chunkedHead(tenant: string): Buffer {
  const head = postBytes("/v1/adapters", tenant, "").toString();
  return Buffer.from(head.replace("content-length: 0", "transfer-encoding: chunked"));
}

describe("a neighbour's completion takes at most twice what it takes beside harmless uploads:", () => {
  const connections = 4;
  const jsonl = (text: string) => {
    const head = postBytes("/v1/adapters?name=x", "attacker", "", Buffer.byteLength(text)).toString();
    return Buffer.concat([Buffer.from(head.replace("application/json", "application/jsonl")), Buffer.from(text)]);
  };
  const oneWords = `${'"river"\n'.repeat(limits.documents)}`;
  const chunks = Buffer.concat([
    chunkedHead("attacker"),
    ...Array.from({ length: 34 }, () => Buffer.from(`100000\r\n${"a".repeat(2 ** 20)}\r\n`)),
  ]);
  const cases: [what: string, bytes: Buffer][] = [
    ["more than the limit, in chunks", chunks],
    ["ten thousand documents of one word", jsonl(oneWords)],
    ["one token over and over", jsonl(JSON.stringify(" the".repeat(16_000)))],
  ];
  test.each(cases)("%s", async (what, attack) => {
    const text = Array.from({ length: 16_000 }, (_, i) => words[(i * i) % words.length]).join(" ");
    const harmless = postBytes("/v1/adapters", "harmless", { name: "x", documents: [text] });
    const flood = (bytes: Buffer) => ({ port: edge.port, connections, bytesBase64: bytes.toString("base64") });
    const floods = { harmless: flood(harmless), attack: flood(attack) };
    const { harmlessMs, attackMs, ratio, statuses } = await p95Beside(floods, () => completeAs("neighbour"));
    console.log(
      `${what}: p95 ${attackMs.toFixed(0)} ms, beside harmless ${harmlessMs.toFixed(0)} ms, ${ratio.toFixed(2)}x; ${JSON.stringify(statuses)}`,
    );
    expect(ratio).toBeLessThanOrEqual(mostVictimRatio);
    expect((await completeAs("neighbour")).choices).toHaveLength(1);
  });
});
