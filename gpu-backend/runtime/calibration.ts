import { type TensorFile, tensorFrom } from "../../shared/artifacts/tensor-file.ts";
import { names } from "./graph-names.ts";
import type { ModelConfig } from "./model-config.ts";
import { buildTrunkGraph } from "./model-graph.ts";
import type { ModelWeights } from "./model-weights.ts";
import { openSession } from "./session.ts";
import { smoothedInputs } from "./smoothing.ts";
import { trunkFeeds } from "./trunk-runner.ts";

/** A text is one pass, from position 0. */
const textTokens = 256;

/** Measures the inputs of the products in `smoothedInputs`. Takes about as much memory as serving with the weight format `exact`. */
export async function measureMagnitudes(
  options: { config: ModelConfig; weights: ModelWeights; threads: number },
  tokenIds: readonly number[],
): Promise<TensorFile> {
  const { config, weights } = options;
  if (tokenIds.length === 0) throw new Error("no tokens to calibrate with");
  const session = await openSession(buildTrunkGraph(config, weights, { format: "exact", withSquares: true }), options);
  const channels = smoothedInputs(config, weights);
  const squares = new Map([...channels].map(([name, count]) => [name, new Float64Array(count)]));
  const length = Math.min(textTokens, config.contextTokens);
  for (let start = 0; start < tokenIds.length; start += length) {
    const ids = Int32Array.from(tokenIds.slice(start, start + length));
    const results = await session.run(trunkFeeds(ids, 1, ids.length), [...channels.keys()].map(names.inputSquares));
    for (const [name, sums] of squares) {
      const found = results[names.inputSquares(name)].data as Float32Array;
      sums.forEach((sum, channel) => {
        sums[channel] = sum + found[channel];
      });
    }
  }
  await session.release();
  return new Map(
    [...squares].map(([name, sums]) => {
      const magnitudes = Float32Array.from(sums, (sum) => Math.sqrt(sum / tokenIds.length));
      return [name, tensorFrom(magnitudes, [sums.length])];
    }),
  );
}
