/**
 * A backend that computes nothing, as a process of its own: tokens come by the clock. It speaks the edge's contract,
 * and OpenAI's completions for a gateway that has no other. Argument: the manifest hash that it says it serves.
 * Prints its URL.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { json } from "node:stream/consumers";
import { FrameGathering } from "../../../gpu-backend/http/frame-stream.ts";
import type { BatchRequest, Frame } from "../../../shared/contracts/inference.ts";
import { frameLine } from "../../../shared/contracts/ndjson.ts";
import { sseDone, sseEvent } from "../../../shared/contracts/sse.ts";
import { doneFrame, tokenFrame } from "../../support/frames.ts";

/** A quick engine's first token, and steps as slow as make 16 streams no load test. */
const firstTokenMs = 5;
const stepMs = 10;

const [manifestHash] = process.argv.slice(2);

const server = createServer((request, response) => {
  answer(request, response).catch((error) => response.destroy(error));
});
server.listen(0, "127.0.0.1", () => {
  process.stdout.write(`http://127.0.0.1:${(server.address() as AddressInfo).port}\n`);
});
process.once("disconnect", () => process.exit(0));

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const ready = { status: "ready", model: "fake", servedAs: "gpt2", manifestHash };
  if (request.method === "GET") return sendJson(response, ready);
  const body = await json(request);
  if (request.url === "/v1/batches") return sendFrames(response, body as BatchRequest);
  if (request.url === "/v1/completions") return sendEvents(response, (body as { max_tokens: number }).max_tokens);
  sendJson(response, { cancelled: [] });
}

function sendJson(response: ServerResponse, value: object): void {
  response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(value));
}

function sendFrames(response: ServerResponse, { sequences }: BatchRequest): void {
  response.writeHead(200, { "content-type": "application/x-ndjson" });
  response.flushHeaders();
  const longest = Math.max(...sequences.map(({ maxTokens }) => maxTokens));
  const gathering = new FrameGathering(sequences, (frames) => response.write(frames.map(frameLine).join("")));
  byTheClock(response, longest, (i) => {
    const frames = sequences.flatMap(({ id, maxTokens }): Frame[] => {
      if (i >= maxTokens) return [];
      const last = i === maxTokens - 1 ? [{ ...doneFrame(id), completionTokens: maxTokens }] : [];
      return [tokenFrame(id, i, 65), ...last];
    });
    gathering.push(frames);
  });
}

function sendEvents(response: ServerResponse, tokens: number): void {
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.flushHeaders();
  byTheClock(response, tokens, (i) => {
    const choice = { index: 0, text: "A", logprobs: null, finish_reason: i === tokens - 1 ? "length" : null };
    const event = { id: "cmpl-fake", object: "text_completion", created: 0, model: "gpt2", choices: [choice] };
    response.write(sseEvent(JSON.stringify(event)) + (i === tokens - 1 ? sseDone : ""));
  });
}

function byTheClock(response: ServerResponse, tokens: number, write: (i: number) => void): void {
  let i = 0;
  const step = () => {
    if (response.destroyed) return;
    write(i);
    if (++i < tokens) setTimeout(step, stepMs);
    else response.end();
  };
  setTimeout(step, firstTokenMs);
}
