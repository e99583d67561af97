/** Hidden states and pointer keys of whole texts, for training and evaluation: the trunk without a past and without a head. */
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { buildTrunkGraph } from "./gpt2-graph.ts";
import { names } from "./graph-names.ts";
import { causalMask } from "./onnx-runner.ts";
import { openSession, tensor } from "./session.ts";
import type { Gpt2Config } from "./step.ts";

export interface TrunkRunner {
  /** Final hidden states (after the last layer norm), [S, T, D], of `tokenIds` [S, T] from position 0. */
  hidden(tokenIds: Int32Array, sequences: number, tokens: number): Promise<Float32Array>;
  /** The same, with the key of each position by which the pointer finds it, of length 1: both [S, T, D]. */
  hiddenAndKeys(
    tokenIds: Int32Array,
    sequences: number,
    tokens: number,
  ): Promise<{ hidden: Float32Array; keys: Float32Array }>;
  release(): Promise<void>;
}

export async function createTrunkRunner(options: {
  config: Gpt2Config;
  weights: TensorFile;
  threads: number;
}): Promise<TrunkRunner> {
  const session = await openSession(buildTrunkGraph(options.config, options.weights), options);
  const run = (outputs: string[], tokenIds: Int32Array, sequences: number, tokens: number) => {
    if (tokens > options.config.contextTokens) {
      throw new Error(`${tokens} tokens do not fit the context of ${options.config.contextTokens}`);
    }
    const positions = Int32Array.from(tokenIds, (_, i) => i % tokens);
    const feeds = {
      [names.tokenIds]: tensor(tokenIds, [sequences, tokens]),
      [names.positions]: tensor(positions, [sequences, tokens]),
      [names.causalMask]: causalMask(tokens),
    };
    return session.run(feeds, outputs);
  };
  return {
    async hidden(tokenIds, sequences, tokens) {
      const results = await run([names.hidden], tokenIds, sequences, tokens);
      return results[names.hidden].data as Float32Array;
    },
    async hiddenAndKeys(tokenIds, sequences, tokens) {
      const results = await run([names.hidden, names.keys], tokenIds, sequences, tokens);
      return { hidden: results[names.hidden].data as Float32Array, keys: results[names.keys].data as Float32Array };
    },
    release: () => session.release(),
  };
}
