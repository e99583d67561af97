/**
 * Requests of a mixed load: lengths by the quantiles of a published trace, cut to the context, and random arrival times. Pure: the same
 * seed gives the same requests.
 */
import { seededRandom } from "../../support/steps.ts";

/**
 * Azure's LLM inference trace of 2023, the conversation service (AzureLLMInferenceTrace_conv.csv, 19,366 requests, CC-BY;
 * Patel et al., "Splitwise: Efficient generative LLM inference using phase splitting", ISCA 2024): tokens at every twentieth of
 * the requests, from the shortest to the longest.
 */
const traceQuantiles = {
  prompt: [
    2, 181, 207, 372, 387, 396, 403, 414, 703, 984, 1020, 1045, 1071, 1097, 1130, 1189, 1315, 1876, 2734, 4083, 14050,
  ],
  output: [7, 41, 54, 67, 77, 85, 91, 96, 103, 113, 129, 151, 177, 217, 384, 395, 400, 411, 424, 451, 1000],
};
/** Minimum room for output, however long the prompt is: the trace's median output. */
const leastOutput = 129;

export interface Arrival {
  id: string;
  dueMs: number;
  promptIds: number[];
  maxTokens: number;
}

/** The value at `share` of a distribution, by linear interpolation between equidistant quantiles. */
function quantileOf(quantiles: readonly number[], share: number): number {
  const at = share * (quantiles.length - 1);
  const below = Math.min(Math.floor(at), quantiles.length - 2);
  return quantiles[below] + (at - below) * (quantiles[below + 1] - quantiles[below]);
}

export function tracedLengths(contextTokens: number, random: () => number): { prompt: number; maxTokens: number } {
  const prompt = Math.min(Math.round(quantileOf(traceQuantiles.prompt, random())), contextTokens - leastOutput);
  const maxTokens = Math.min(Math.round(quantileOf(traceQuantiles.output, random())), contextTokens - prompt);
  return { prompt, maxTokens };
}

/** Times between requests are exponentially distributed. */
export function tracedArrivals(
  requestsPerSecond: number,
  requests: number,
  { contextTokens, stopIds: [end] }: { contextTokens: number; stopIds: readonly number[] },
  seed = 2023,
): Arrival[] {
  const random = seededRandom(seed);
  let dueMs = 0;
  return Array.from({ length: requests }, (_, i) => {
    dueMs += (-Math.log(1 - random()) / requestsPerSecond) * 1000;
    const { prompt, maxTokens } = tracedLengths(contextTokens, random);
    const promptIds = Array.from({ length: prompt }, () => Math.floor(random() * end));
    return { id: `r${i}`, dueMs, promptIds, maxTokens };
  });
}

export function uniformArrivals(
  batch: number,
  { prompt, maxTokens }: { prompt: number; maxTokens: number },
  { stopIds: [end] }: { stopIds: readonly number[] },
): Arrival[] {
  const random = seededRandom(batch);
  return Array.from({ length: batch }, (_, i) => ({
    id: `u${i}`,
    dueMs: 0,
    promptIds: Array.from({ length: prompt }, () => Math.floor(random() * end)),
    maxTokens,
  }));
}
