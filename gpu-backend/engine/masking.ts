import type { Sampling } from "../../shared/contracts/sampling.ts";
import { ServiceError } from "../../shared/errors.ts";
import { type HeadResult, isGreedy } from "./sampler.ts";

/** Changes the row's scores [V] in place. Throws a ServiceError if all tokens are forbidden. */
export function maskedRow(
  row: HeadResult,
  { allowed }: { allowed: Uint32Array | null },
  sampling: Pick<Sampling, "temperature" | "top_k" | "logprobs">,
): HeadResult {
  const { scores } = row;
  if (!allowed || !scores)
    throw new Error("a row was computed without its scores, or before its grammar knew what comes next");
  const isAllowed = (id: number) => (allowed[id >>> 5] >>> (id & 31)) & 1;
  const temperature = isGreedy(sampling) ? 1 : sampling.temperature;
  let highest = Number.NEGATIVE_INFINITY;
  for (let id = 0; id < scores.length; id++) {
    if (!isAllowed(id)) scores[id] = Number.NEGATIVE_INFINITY;
    else if (scores[id] > highest) highest = scores[id];
  }
  if (highest === Number.NEGATIVE_INFINITY) {
    throw new ServiceError("generation_failed", "No token of the vocabulary goes on with the text as the schema says.");
  }
  let [sum, scaled] = [0, 0];
  for (const score of scores) {
    if (score === Number.NEGATIVE_INFINITY) continue;
    sum += Math.exp(score - highest);
    if (temperature !== 1) scaled += Math.exp((score - highest) / temperature);
  }
  const logSumExp = highest + Math.log(sum);
  const topIds = bestOf(row, scores, Math.max(1, sampling.logprobs ?? 0));
  return {
    ...row,
    topIds,
    topScores: Float32Array.from(topIds, (id) => scores[id]),
    logSumExp,
    scaledLogSumExp: temperature === 1 ? logSumExp : highest / temperature + Math.log(scaled),
  };
}

/** The row's allowed candidates if there are at least `count`, else the best of all allowed tokens. Best first, ties by id. */
function bestOf(row: HeadResult, scores: Float32Array, count: number): Int32Array {
  const left = row.topIds.filter((id) => scores[id] > Number.NEGATIVE_INFINITY);
  if (left.length >= count) return left;
  const best: number[] = [];
  for (let id = 0; id < scores.length; id++) {
    const score = scores[id];
    if (score === Number.NEGATIVE_INFINITY || (best.length === count && score <= scores[best[count - 1]])) continue;
    const place = best.findLastIndex((one) => scores[one] >= score) + 1;
    best.splice(place, 0, id);
    if (best.length > count) best.pop();
  }
  return Int32Array.from(best);
}
