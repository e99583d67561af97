/**
 * Which token comes next, exactly, over the whole vocabulary. Pure: (row of results, sampling, uniform number) → token id.
 * Logits already hold delta and row bias. Not here: penalties (sequence.ts turns them into row bias), and when to stop.
 */
import type { StepOutput } from "../runtime/step.ts";

/** What a step says about one head row; K candidates, V vocabulary. */
export interface HeadResult {
  /** [K], best first. */
  topIds: Int32Array;
  topLogits: Float32Array;
  logSumExp: number;
  /** Of logits / temperature. */
  scaledLogSumExp: number;
  targetLogit: number;
  /** [V]; null where the step was not asked for them. */
  logits: Float32Array | null;
}

/** Below this a temperature counts as 0: float32 could not carry logits divided by it. */
export const smallestTemperature = 1e-3;
/** Candidates beyond the top K are ranked in bands of logits this wide (times the temperature). */
const bandWidth = 2;

/** The result of head row `n`: views, no copies. */
export function headResult(output: StepOutput, n: number): HeadResult {
  const { topCount: K, logits } = output;
  const V = logits ? logits.length / output.logSumExp.length : 0;
  return {
    topIds: output.topIds.subarray(n * K, (n + 1) * K),
    topLogits: output.topLogits.subarray(n * K, (n + 1) * K),
    logSumExp: output.logSumExp[n],
    scaledLogSumExp: output.scaledLogSumExp[n],
    targetLogit: output.targetLogits[n],
    logits: logits ? logits.subarray(n * V, (n + 1) * V) : null,
  };
}

export function isGreedy(temperature: number): boolean {
  return temperature < smallestTemperature;
}

/**
 * The sampled token id: `uniform` in [0, 1) picks from the nucleus, the likeliest tokens that together reach `topP` at
 * this temperature, by inverse cumulative probability in order of rank. Greedy takes the first.
 */
export function sampleToken(row: HeadResult, sampling: { temperature: number; topP: number }, uniform: number): number {
  const { temperature, topP } = sampling;
  if (isGreedy(temperature)) return row.topIds[0];
  const ranked: number[] = [];
  const cumulative: number[] = [];
  let total = 0;
  // With the whole vocabulary as nucleus its mass is known to be 1, so the walk ends at the drawn token.
  const isEnough = () => (topP < 1 ? total >= topP : total > uniform);
  for (const band of rankedBands(row, temperature)) {
    for (let i = 0; i < band.length && !isEnough(); i++) {
      total += Math.exp(band[i] / temperature - row.scaledLogSumExp);
      ranked.push(band[i]);
      cumulative.push(total);
    }
    if (isEnough()) break;
  }
  // The sum of all may fall short of 1 by rounding; then the draw is scaled to it.
  const target = topP < 1 || total <= uniform ? uniform * total : uniform;
  const drawn = cumulative.findIndex((sum) => sum > target);
  return idAtRank(row, ranked, drawn < 0 ? ranked.length - 1 : drawn);
}

/** Logprob of a token id in a row, at temperature 1. */
export function logprobOf(row: HeadResult, tokenId: number): number {
  const rank = row.topIds.indexOf(tokenId);
  if (rank >= 0) return row.topLogits[rank] - row.logSumExp;
  if (!row.logits) throw new Error(`token id ${tokenId} is not among the top ${row.topIds.length}, and no logits came`);
  return row.logits[tokenId] - row.logSumExp;
}

/** The `count` likeliest token ids with their logprobs, best first. */
export function alternativesOf(row: HeadResult, count: number): [number, number][] {
  return Array.from(row.topIds.subarray(0, count), (id, rank) => [id, row.topLogits[rank] - row.logSumExp]);
}

/**
 * The logits of all tokens, falling: the top K, then band by band, so that a draw sorts what it needs and not the
 * vocabulary. Logits without ids, because typed arrays sort plain numbers fast.
 */
function* rankedBands({ topLogits, logits }: HeadResult, temperature: number): Generator<Float32Array> {
  yield topLogits;
  if (!logits) throw new Error("sampling needs the logits of its row");
  let known = topLogits.length;
  let above = Number.POSITIVE_INFINITY;
  let floor = topLogits[known - 1] - bandWidth * temperature;
  for (let left = logits.length; left > 0; ) {
    const band = new Float32Array(left);
    let size = 0;
    let next = Number.NEGATIVE_INFINITY;
    for (let id = 0; id < logits.length; id++) {
      const logit = logits[id];
      if (logit < floor) {
        if (logit > next) next = logit;
      } else if (logit < above) band[size++] = logit;
    }
    // The first band begins with the top K.
    yield band.subarray(0, size).sort().reverse().subarray(known);
    known = 0;
    left -= size;
    above = floor;
    // At least one in the next band, however wide the gap.
    floor = Math.min(next, floor) - bandWidth * temperature;
  }
}

/** The token id at a rank of `ranked`; equal logits rank by id. */
function idAtRank({ topIds, logits }: HeadResult, ranked: readonly number[], rank: number): number {
  if (rank < topIds.length) return topIds[rank];
  let equalBefore = 0;
  while (ranked[rank - equalBefore - 1] === ranked[rank]) equalBefore++;
  let id = logits!.indexOf(ranked[rank]);
  for (; equalBefore > 0; equalBefore--) id = logits!.indexOf(ranked[rank], id + 1);
  return id;
}
