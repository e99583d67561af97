/** Requests and frames of the backend contract, with defaults for what a test does not name. */
import type { BatchRequest, DoneFrame, SequenceRequest, TokenFrame } from "../../shared/contracts/inference.ts";

export function sequenceRequest(id: string): SequenceRequest {
  const sampling = { seed: 1 };
  const prompt = { promptIds: [1, 2, 3], promptLogprobs: false };
  return { id, tenant: "local", ...prompt, continuedIds: [], maxTokens: 4, sampling, compare: false };
}

export function batchRequest(sequences: SequenceRequest[], rest: Partial<BatchRequest> = {}): BatchRequest {
  return { version: 4, manifestHash: "a".repeat(64), centroidId: null, sequences, ...rest };
}

export function tokenFrame(id: string, index: number, tokenId: number): TokenFrame {
  return { type: "token", id, index, tokenId };
}

export function doneFrame(id: string, timings: Partial<DoneFrame["timings"]> = {}): DoneFrame {
  return {
    type: "done",
    id,
    finishReason: "length",
    adapter: { hash: "e".repeat(64), cache: "hit", scale: 1 },
    promptTokens: 3,
    completionTokens: 1,
    timings: { queueMs: 0, adapterMs: 0, prefillMs: 0, decodeMs: 0, ...timings },
  };
}
