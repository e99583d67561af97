/**
 * A backend process without a model. Its options set the token of each sequence, and the pace. It also speaks OpenAI's completions, for a
 * gateway that knows no other protocol. Argument: `FakeBackendOptions` as JSON. Prints its URL. `GET /counts` returns `FakeBackendCounts`.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { json } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { FrameGathering } from "../../gpu-backend/http/frame-stream.ts";
import type { BatchRequest, CancelRequest, Frame, SequenceRequest } from "../../shared/contracts/inference.ts";
import { frameLine } from "../../shared/contracts/ndjson.ts";
import { samplingWith } from "../../shared/contracts/sampling.ts";
import { sseDone, sseEvent } from "../../shared/contracts/sse.ts";
import type { FakeBackendCounts, FakeBackendOptions } from "./fake-backend.ts";
import { doneFrame, tokenFrame } from "./frames.ts";

const options = JSON.parse(process.argv[2]) as FakeBackendOptions;
const counts: FakeBackendCounts = { sequences: 0, running: 0, tokens: 0 };
const cancelled = new Set<string>();
const [tokenId] = options.tokenIds;

const server = createServer((request, response) => {
  answer(request, response).catch((error) => response.destroy(error));
});
server.listen(0, "127.0.0.1", () => {
  process.stdout.write(`http://127.0.0.1:${(server.address() as AddressInfo).port}\n`);
});
process.once("disconnect", () => process.exit(0));

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (request.url === "/counts") return sendJson(response, counts);
  if (request.method === "GET") {
    return sendJson(response, { status: "ready", model: "fake", servedAs: "gpt2", manifestHash: options.manifestHash });
  }
  const body = await json(request);
  if (request.url === "/v1/batches") return sendFrames(response, body as BatchRequest);
  if (request.url === "/v1/completions") return sendEvents(response, (body as { max_tokens: number }).max_tokens);
  const { ids } = body as CancelRequest;
  for (const id of ids) cancelled.add(id);
  sendJson(response, { cancelled: ids });
}

function sendJson(response: ServerResponse, value: object): void {
  response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(value));
}

async function sendFrames(response: ServerResponse, { sequences }: BatchRequest): Promise<void> {
  response.writeHead(200, { "content-type": "application/x-ndjson" });
  response.flushHeaders();
  counts.sequences += sequences.length;
  counts.running += sequences.length;
  let left = sequences;
  const keep = (kept: SequenceRequest[]) => {
    counts.running -= left.length - kept.length;
    left = kept;
  };
  const closed = new Promise<void>((resolve) => response.once("close", resolve));
  let drained: (() => void) | null = null;
  let isFlowing = true;
  response.on("drain", () => {
    isFlowing = true;
    drained?.();
  });
  response.on("error", () => {});
  const gathering = new FrameGathering(sequences, (frames) => {
    isFlowing = response.write(frames.map(frameLine).join(""));
  });
  for (let i = 0; left.length > 0 && !response.destroyed; i++) {
    await sleep(i === 0 ? options.firstTokenMs : options.stepMs);
    keep(left.filter(({ id }) => !cancelled.has(id)));
    if (left.length === 0) break;
    counts.tokens += left.length;
    gathering.push(left.flatMap((sequence) => framesAt(i, sequence)));
    keep(left.filter(({ maxTokens }) => i + 1 < maxTokens));
    if (isFlowing) continue;
    const draining = new Promise<void>((resolve) => {
      drained = resolve;
    });
    await Promise.race([draining, closed]);
  }
  keep([]);
  gathering.stop();
  response.end();
}

async function sendEvents(response: ServerResponse, tokens: number): Promise<void> {
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.flushHeaders();
  for (let i = 0; i < tokens && !response.destroyed; i++) {
    await sleep(i === 0 ? options.firstTokenMs : options.stepMs);
    const isLast = i === tokens - 1;
    const choice = { index: 0, text: "A", logprobs: null, finish_reason: isLast ? "length" : null };
    const event = { id: "cmpl-fake", object: "text_completion", created: 0, model: "gpt2", choices: [choice] };
    response.write(sseEvent(JSON.stringify(event)) + (isLast ? sseDone : ""));
  }
  response.end();
}

function framesAt(i: number, sequence: SequenceRequest): Frame[] {
  const { id, compare, maxTokens } = sequence;
  const sampling = samplingWith(sequence.sampling);
  const frames: Frame[] = [
    {
      ...tokenFrame(id, i, tokenId),
      ...(sampling.logprobs !== null && {
        logprob: -1.2345678901,
        alternatives: Array.from({ length: sampling.logprobs }, (_, k): [number, number] => [
          options.tokenIds[k % options.tokenIds.length],
          -1.2345678901 - k,
        ]),
      }),
      ...(compare && { baseLogprob: -2.3456789012 }),
    },
  ];
  if (i === maxTokens - 1) frames.push({ ...doneFrame(id), completionTokens: maxTokens });
  return frames;
}
