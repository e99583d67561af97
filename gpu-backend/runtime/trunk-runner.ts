import { names } from "./graph-names.ts";
import type { ModelConfig } from "./model-config.ts";
import { buildTrunkGraph } from "./model-graph.ts";
import type { ModelWeights } from "./model-weights.ts";
import { causalMask } from "./onnx-runner.ts";
import type { WeightFormat } from "./products.ts";
import { openSession, type Tensor, tensor } from "./session.ts";

export type TrunkRunner = Awaited<ReturnType<typeof createTrunkRunner>>;

export async function createTrunkRunner(options: {
  config: ModelConfig;
  weights: ModelWeights;
  threads: number;
  format?: WeightFormat;
}) {
  const session = await openSession(buildTrunkGraph(options.config, options.weights, options), options);
  const run = (tokenIds: Int32Array, sequences: number, tokens: number, fetches: readonly string[]) => {
    if (tokens > options.config.contextTokens) {
      throw new Error(`${tokens} tokens do not fit the context of ${options.config.contextTokens}`);
    }
    return session.run(trunkFeeds(tokenIds, sequences, tokens), fetches);
  };
  return {
    /** States after the last layer norm, [S, T, D], of `tokenIds` [S, T] from position 0. */
    async hidden(tokenIds: Int32Array, sequences: number, tokens: number) {
      const results = await run(tokenIds, sequences, tokens, [names.hidden]);
      return results[names.hidden].data as Float32Array;
    },
    /** States after the last layer norm (`hidden`) and before the last feed-forward part (`states`), both [S, T, D]. */
    async states(tokenIds: Int32Array, sequences: number, tokens: number) {
      const results = await run(tokenIds, sequences, tokens, [names.states, names.hidden]);
      return { states: results[names.states].data as Float32Array, hidden: results[names.hidden].data as Float32Array };
    },
    release: () => session.release(),
  };
}

export function trunkFeeds(tokenIds: Int32Array, sequences: number, tokens: number): Record<string, Tensor> {
  const positions = Int32Array.from(tokenIds, (_, i) => i % tokens);
  return {
    [names.tokenIds]: tensor(tokenIds, [sequences, tokens]),
    [names.positions]: tensor(positions, [sequences, tokens]),
    [names.causalMask]: causalMask(tokens),
  };
}
