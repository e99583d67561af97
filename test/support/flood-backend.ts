/**
 * A backend that computes nothing: tokens with all that was asked for beside them, as fast as the edge takes them or one
 * step each `stepMs`. It runs in the test's own process, and says what became of each micro-batch.
 */
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { json } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import type { BatchRequest, Frame, SequenceRequest } from "../../shared/contracts/inference.ts";
import { frameLine } from "../../shared/contracts/ndjson.ts";
import { doneFrame } from "./frames.ts";

/** One micro-batch. */
export interface FloodedBatch {
  request: BatchRequest;
  /** Tokens sent. */
  tokens: number;
  /** "cancelled": its connection was closed before it was done. */
  end: "done" | "cancelled" | "broken" | null;
}

export interface FloodBackend {
  url: string;
  batches: FloodedBatch[];
  /** Waits so long between steps; from then on. */
  stepMs: number;
  /** While it is set every connection is closed, and none is answered. */
  isDead: boolean;
  /** No micro-batch gets a token before it resolves. */
  held: Promise<void>;
  stop(): Promise<void>;
}

export async function startFloodBackend(): Promise<FloodBackend> {
  const cancelled = new Set<string>();
  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    if (backend.isDead) {
      response.destroy();
      return;
    }
    if (request.url === "/v1/batches") {
      const batch: FloodedBatch = { request: (await json(request)) as BatchRequest, tokens: 0, end: null };
      backend.batches.push(batch);
      await flood(batch, response);
      return;
    }
    if (request.url === "/v1/cancellations") {
      for (const id of ((await json(request)) as { ids: string[] }).ids) cancelled.add(id);
    }
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify({ status: "ready", model: "flood", servedAs: "gpt2", manifestHash: "0".repeat(64) }));
  };
  const flood = async (batch: FloodedBatch, response: ServerResponse) => {
    const { sequences } = batch.request;
    response.writeHead(200, { "content-type": "application/x-ndjson" });
    const closed = once(response, "close");
    await Promise.race([backend.held, closed]);
    const longest = Math.max(...sequences.map(({ maxTokens }) => maxTokens));
    for (let i = 0; i < longest && !response.destroyed; i++) {
      if (backend.isDead) {
        batch.end = "broken";
        response.destroy();
        break;
      }
      const frames = sequences.filter(({ id }) => !cancelled.has(id)).flatMap((sequence) => framesOf(sequence, i));
      batch.tokens += frames.filter(({ type }) => type === "token").length;
      const isTaken = response.write(frames.map(frameLine).join(""));
      if (!isTaken) await Promise.race([once(response, "drain"), closed]);
      await (backend.stepMs > 0 ? sleep(backend.stepMs) : new Promise((resolve) => setImmediate(resolve)));
    }
    batch.end ??= response.destroyed ? "cancelled" : "done";
    response.end();
  };
  const server = createServer((request, response) => {
    answer(request, response).catch((error) => response.destroy(error));
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const backend: FloodBackend = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    batches: [],
    stepMs: 0,
    isDead: false,
    held: Promise.resolve(),
    async stop() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
  return backend;
}

function framesOf({ id, maxTokens, sampling, compare }: SequenceRequest, index: number): Frame[] {
  if (index >= maxTokens) return [];
  const alternatives = Array.from({ length: sampling.logprobs ?? 0 }, (_, i): [number, number] => [300 + i, -i / 7]);
  const scores = sampling.logprobs === undefined ? {} : { logprob: -1 / 3, alternatives };
  const tokens: Frame[] = [
    { type: "token", id, index, tokenId: 300 + (index % 40), ...scores, ...(compare && { baseLogprob: -2 / 3 }) },
  ];
  return index === maxTokens - 1 ? [...tokens, { ...doneFrame(id), completionTokens: maxTokens }] : tokens;
}
