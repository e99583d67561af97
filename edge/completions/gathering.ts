/**
 * Which tokens the backend sends together. Each read and each write costs the cell's one thread about as much as everything
 * else that is done for a token, which delays the first tokens of other requests. Pure.
 */
import type { BatchRequest } from "../../shared/contracts/inference.ts";

export const gatheringLimits = {
  /** Streams of a tenant in one cell whose tokens are sent one by one. */
  aloneStreams: 2,
  /** Maximum milliseconds for which a token waits in any further stream; first and last ones never wait. */
  streamMs: 25,
  /** The same for an answer without `stream`: nobody reads its tokens as they come. */
  wholeMs: 250,
};

/** `batch` with the time its tokens may wait, for a request whose tenant has `openStreams` in the cell already. */
export function gathered(batch: BatchRequest, isStream: boolean, openStreams: number): BatchRequest {
  const { aloneStreams, streamMs, wholeMs } = gatheringLimits;
  if (isStream && openStreams < aloneStreams) return batch;
  const gatherMs = isStream ? streamMs : wholeMs;
  return { ...batch, sequences: batch.sequences.map((sequence) => ({ ...sequence, gatherMs })) };
}
