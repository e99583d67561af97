/** What smoothing needs to know of a model's activations: their greatest magnitudes over texts. */
import { type TensorFile, tensorFrom } from "../../shared/artifacts/tensor-file.ts";
import { names } from "./graph-names.ts";
import type { ModelConfig } from "./model-config.ts";
import { buildTrunkGraph } from "./model-graph.ts";
import type { ModelWeights } from "./model-weights.ts";
import { causalMask } from "./onnx-runner.ts";
import { openSession, tensor } from "./session.ts";
import { smoothedInputs } from "./smoothing.ts";

/** Tokens of each text at most: it is one pass, from position 0. */
const textTokens = 256;

/**
 * `ChannelMaxima` over `tokenIds`, cut into texts, as a file of tensors. The weights are as the model's file has them, so it takes
 * about as much memory as serving in `exact`.
 */
export async function measureMaxima(
  options: { config: ModelConfig; weights: ModelWeights; threads: number },
  tokenIds: readonly number[],
): Promise<TensorFile> {
  const { config, weights } = options;
  const session = await openSession(buildTrunkGraph(config, weights, { format: "exact", withMaxima: true }), options);
  const channels = smoothedInputs(config, weights);
  const maxima = new Map([...channels].map(([name, count]) => [name, new Float32Array(count)]));
  const length = Math.min(textTokens, config.contextTokens);
  for (let start = 0; start < tokenIds.length; start += length) {
    const ids = Int32Array.from(tokenIds.slice(start, start + length));
    const feeds = {
      [names.tokenIds]: tensor(ids, [1, ids.length]),
      [names.positions]: tensor(Int32Array.from(ids.keys()), [1, ids.length]),
      [names.causalMask]: causalMask(ids.length),
    };
    const results = await session.run(feeds, [...channels.keys()].map(names.inputMaxima));
    for (const [name, greatest] of maxima) {
      const found = results[names.inputMaxima(name)].data as Float32Array;
      greatest.forEach((value, channel) => {
        greatest[channel] = Math.max(value, found[channel]);
      });
    }
  }
  await session.release();
  return new Map([...maxima].map(([name, values]) => [name, tensorFrom(values, [values.length])]));
}
