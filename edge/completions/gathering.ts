/**
 * Which tokens travel together from the backend on. Each read and each write costs the object's one thread about as much as
 * all else that is done for a token, and would take its time from everybody's first tokens. Pure.
 */
import type { BatchRequest } from "../../shared/contracts/inference.ts";

export const gatheringLimits = {
  /** Streams of a tenant, at one object, whose tokens travel one by one. */
  aloneStreams: 2,
  /** In any more of them tokens wait so long at most; first and last ones never do. */
  streamMs: 25,
  /** Where nobody reads along. */
  wholeMs: 250,
};

/** `batch` with what its tokens may wait, for a request that comes while its tenant has `openStreams` at the object. */
export function gathered(batch: BatchRequest, isStream: boolean, openStreams: number): BatchRequest {
  const { aloneStreams, streamMs, wholeMs } = gatheringLimits;
  if (isStream && openStreams < aloneStreams) return batch;
  const gatherMs = isStream ? streamMs : wholeMs;
  return { ...batch, sequences: batch.sequences.map((sequence) => ({ ...sequence, gatherMs })) };
}
