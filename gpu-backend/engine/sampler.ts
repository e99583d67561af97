/** Scores already include adapter, penalties and logit_bias. Pure. */
import type { Sampling } from "../../shared/contracts/sampling.ts";
import { type RowOutput, topCandidates } from "../runtime/step.ts";

export type HeadResult = ReturnType<typeof headResult>;

/** Lower temperatures count as 0, because logits divided by them would not fit float32. */
const minTemperature = 1e-3;
/** The logprob of a token of probability 0: the lowest float32, because JSON has no infinity. */
const minLogprob = -(2 - 2 ** -23) * 2 ** 127;
/** Tokens outside the top K are sorted in bands of scores, each `bandWidth` · temperature wide. */
const bandWidth = 2;

/** Returns [K] candidates, best first, and [V] scores, or null for scores that were not requested. */
export function headResult(output: RowOutput, n: number) {
  const { topCount: K, scores } = output;
  const V = scores ? scores.length / output.logSumExp.length : 0;
  return {
    topIds: output.topIds.subarray(n * K, (n + 1) * K),
    topScores: output.topScores.subarray(n * K, (n + 1) * K),
    logSumExp: output.logSumExp[n],
    scaledLogSumExp: output.scaledLogSumExp[n],
    targetScore: output.targetScores[n],
    scores: scores ? scores.subarray(n * V, (n + 1) * V) : null,
  };
}

export type Shaping = Pick<Sampling, "temperature" | "top_p" | "top_k" | "min_p">;

export function isGreedy({ temperature, top_k }: Pick<Shaping, "temperature" | "top_k">): boolean {
  return temperature < minTemperature || top_k === 1;
}

export function drawsFromCandidates({ temperature, top_k }: Pick<Shaping, "temperature" | "top_k">): boolean {
  return isGreedy({ temperature, top_k }) || (top_k > 0 && top_k <= topCandidates);
}

/**
 * Returns a token id. In vLLM's order, `top_k` and `min_p` first leave only the likeliest tokens (ties by id). Of these, `top_p` leaves
 * the likeliest whose probabilities sum to `top_p`. Then `uniform` in [0, 1) draws one by inverse cumulative probability.
 */
export function sampleToken(row: HeadResult, sampling: Shaping, uniform: number): number {
  if (isGreedy(sampling)) return row.topIds[0];
  const { temperature, top_p, top_k, min_p } = sampling;
  const isCut = top_k > 0 || min_p > 0;
  const lowest = row.topScores[0] + temperature * Math.log(min_p);
  const ranked: number[] = [];
  const cumulative: number[] = [];
  let total = 0;
  let isWhole = false;
  for (const band of rankedBands(row, temperature)) {
    for (let i = 0; i < band.length && !isWhole; i++) {
      if (band[i] < lowest) {
        isWhole = true;
        break;
      }
      total += Math.exp(band[i] / temperature - row.scaledLogSumExp);
      ranked.push(band[i]);
      cumulative.push(total);
      // Without top_k and min_p, `total` grows to 1, so the loop can stop at top_p or at the drawn token.
      isWhole = isCut ? ranked.length === top_k : top_p < 1 ? total >= top_p : total > uniform;
    }
    if (isWhole) break;
  }
  if (isCut && top_p < 1) {
    cumulative.length = cumulative.findIndex((sum) => sum >= top_p * total) + 1;
    total = cumulative[cumulative.length - 1];
  }
  // Scales `uniform` to the sum if tokens were cut, or if rounding makes the sum too small.
  const target = isCut || top_p < 1 || total <= uniform ? uniform * total : uniform;
  const drawn = cumulative.findIndex((sum) => sum > target);
  return idAtRank(row, ranked, drawn < 0 ? cumulative.length - 1 : drawn);
}

export function logprobOf(row: HeadResult, tokenId: number): number {
  const rank = row.topIds.indexOf(tokenId);
  if (rank >= 0) return logprob(row, row.topScores[rank]);
  if (!row.scores) throw new Error(`token id ${tokenId} is not among the top ${row.topIds.length}, and no scores came`);
  return logprob(row, row.scores[tokenId]);
}

export function logprobOfTarget(row: HeadResult): number {
  return logprob(row, row.targetScore);
}

function logprob({ logSumExp }: HeadResult, score: number): number {
  return Math.max(minLogprob, score - logSumExp);
}

export function alternativesOf(row: HeadResult, count: number): [number, number][] {
  return Array.from(row.topIds.subarray(0, count), (id, rank) => [id, logprob(row, row.topScores[rank])]);
}

/** Yields scores in falling order: the top K, then sorted bands. A draw then need not sort the whole vocabulary. */
function* rankedBands(row: HeadResult, temperature: number): Generator<Float32Array> {
  const { topScores, scores } = row;
  yield topScores;
  if (!scores) throw new Error("sampling needs the scores of its row");
  let known = topScores.length;
  let above = Number.POSITIVE_INFINITY;
  let floor = topScores[known - 1] - bandWidth * temperature;
  for (let left = scores.length; left > 0; ) {
    const band = new Float32Array(left);
    let size = 0;
    let next = Number.NEGATIVE_INFINITY;
    for (let id = 0; id < scores.length; id++) {
      const score = scores[id];
      if (score < floor) {
        if (score > next) next = score;
      } else if (score < above) band[size++] = score;
    }
    yield band.subarray(0, size).sort().reverse().subarray(known);
    known = 0;
    left -= size;
    above = floor;
    floor = Math.min(next, floor) - bandWidth * temperature;
  }
}

/** Tokens with equal scores are ordered by id. */
function idAtRank({ topIds, scores }: HeadResult, ranked: readonly number[], rank: number): number {
  if (rank < topIds.length) return topIds[rank];
  let equalBefore = 0;
  while (ranked[rank - equalBefore - 1] === ranked[rank]) equalBefore++;
  let id = scores!.indexOf(ranked[rank]);
  for (; equalBefore > 0; equalBefore--) id = scores!.indexOf(ranked[rank], id + 1);
  return id;
}
