/**
 * A backend process without a model: sends one token per sequence and time step, as large or faulty as its options say.
 * Argument: `FakeBackendOptions` as JSON. Prints its URL. `GET /counts` returns `FakeBackendCounts`.
 */

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { json } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import type { BatchRequest, CancelRequest, Frame, SequenceRequest } from "../../shared/contracts/inference.ts";
import { frameLine } from "../../shared/contracts/ndjson.ts";
import { samplingWith } from "../../shared/contracts/sampling.ts";
import { doneFrame, tokenFrame } from "../support/frames.ts";
import type { FakeBackendCounts, FakeBackendOptions } from "./fake-backend.ts";

const options = JSON.parse(process.argv[2]) as FakeBackendOptions;
const counts: FakeBackendCounts = { readinessCalls: 0, sequences: 0, running: 0, tokens: 0 };
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
    counts.readinessCalls++;
    return sendJson(response, { status: "ready", model: "fake", servedAs: "gpt2", manifestHash: options.manifestHash });
  }
  const body = await json(request);
  if (request.url === "/v1/batches") return sendFrames(response, body as BatchRequest);
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
  response.on("drain", () => drained?.());
  response.on("error", () => {});
  for (let i = 0; left.length > 0 && !response.destroyed; i++) {
    await sleep(options.stepMs);
    keep(left.filter(({ id }) => !cancelled.has(id)));
    if (left.length === 0) break;
    counts.tokens += left.length;
    const isFlowing = response.write(left.map((sequence) => linesAt(i, sequence)).join(""));
    keep(left.filter((sequence) => i + 1 < tokensOf(sequence)));
    if (isFlowing) continue;
    const draining = new Promise<void>((resolve) => {
      drained = resolve;
    });
    await Promise.race([draining, closed]);
  }
  keep([]);
  response.end();
}

function tokensOf({ maxTokens }: SequenceRequest): number {
  return maxTokens + options.extraTokens;
}

function linesAt(i: number, sequence: SequenceRequest): string {
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
  if (i === tokensOf(sequence) - 1) {
    frames.push({ ...doneFrame(id), completionTokens: options.completionTokens ?? maxTokens });
  }
  return frames.map(frameLine).join("");
}
