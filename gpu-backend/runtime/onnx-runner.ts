/** Executes steps on ONNX Runtime: one session over the serving graph. */
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { buildServingGraph, names, type WeightFormat } from "./gpt2-graph.ts";
import { openSession, type Session, type Tensor, tensor } from "./session.ts";
import type { Bank, Gpt2Config, StepInput, StepOutput, StepRunner } from "./step.ts";

/** Added to the score of a position that must not be seen; finite, so that a row without any past stays finite. */
const hiddenScore = -1e9;
const zeroBias = { indices: Int32Array.of(0, 0), values: Float32Array.of(0) };

/** Builds the graph and opens the session. Memory: about twice the fp32 weights. */
export async function createStepRunner(options: {
  config: Gpt2Config;
  weights: TensorFile;
  bank: Bank;
  threads: number;
  format?: WeightFormat;
}): Promise<StepRunner> {
  const { config, weights, bank, threads, format = "fp32" } = options;
  const session = await openSession(buildServingGraph(config, weights, bank, format), { threads });
  return new OnnxRunner(config, bank.gates, session);
}

class OnnxRunner implements StepRunner {
  readonly config: Gpt2Config;
  readonly gates: number;
  readonly #session: Session;
  readonly #causalMasks = new Map<number, Tensor>();

  constructor(config: Gpt2Config, gates: number, session: Session) {
    this.config = config;
    this.gates = gates;
    this.#session = session;
  }

  async run(input: StepInput): Promise<StepOutput> {
    const fetches: string[] = [
      names.present,
      names.topLogits,
      names.topIds,
      names.logSumExp,
      names.scaledLogSumExp,
      names.targetLogits,
    ];
    if (input.want.logits) fetches.push(names.logits);
    if (input.want.hidden) fetches.push(names.hidden);
    const results = await this.#session.run(this.#feeds(input), fetches);
    const floats = (name: string) => results[name].data as Float32Array;
    return {
      present: floats(names.present),
      topCount: results[names.topIds].dims[1],
      topLogits: floats(names.topLogits),
      topIds: results[names.topIds].data as Int32Array,
      logSumExp: floats(names.logSumExp),
      scaledLogSumExp: floats(names.scaledLogSumExp),
      targetLogits: floats(names.targetLogits),
      logits: input.want.logits ? floats(names.logits) : null,
      hidden: input.want.hidden ? floats(names.hidden) : null,
    };
  }

  release(): Promise<void> {
    return this.#session.release();
  }

  #feeds(input: StepInput): Record<string, Tensor> {
    const { sequences: S, tokens: T, pastTokens: P } = input;
    const { layers, heads: H, hiddenSize: D } = this.config;
    const N = input.headRows.length;
    const bias = input.bias.values.length > 0 ? { indices: pairs(input.bias), values: input.bias.values } : zeroBias;
    const feeds: Record<string, Tensor> = {
      [names.tokenIds]: tensor(input.tokenIds, [S, T]),
      [names.positions]: tensor(input.positions, [S, T]),
      [names.pastMask]: tensor(pastMask(input.pastLengths, P), [S, 1, 1, P]),
      [names.causalMask]: this.#causalMask(T),
      [names.headRows]: tensor(input.headRows, [N]),
      [names.gates]: tensor(input.gates, [N, this.gates]),
      [names.inverseTemperatures]: tensor(input.inverseTemperatures, [N]),
      [names.targetIds]: tensor(input.targetIds, [N]),
      [names.biasIndices]: tensor(bias.indices, [bias.values.length, 2]),
      [names.biasValues]: tensor(bias.values, [bias.values.length]),
    };
    for (let l = 0; l < layers; l++) {
      feeds[names.pastKey(l)] = tensor(input.past[2 * l], [S, H, P, D / H]);
      feeds[names.pastValue(l)] = tensor(input.past[2 * l + 1], [S, H, P, D / H]);
    }
    return feeds;
  }

  #causalMask(T: number): Tensor {
    let mask = this.#causalMasks.get(T);
    if (!mask) {
      mask = causalMask(T);
      this.#causalMasks.set(T, mask);
    }
    return mask;
  }
}

/** [1, 1, T, T]: 0 where a column is not after its row. */
export function causalMask(T: number): Tensor {
  const mask = new Float32Array(T * T);
  for (let row = 0; row < T; row++) mask.fill(hiddenScore, row * T + row + 1, (row + 1) * T);
  return tensor(mask, [1, 1, T, T]);
}

function pastMask(pastLengths: Int32Array, P: number): Float32Array {
  const mask = new Float32Array(pastLengths.length * P);
  for (let row = 0; row < pastLengths.length; row++) mask.fill(hiddenScore, row * P + pastLengths[row], (row + 1) * P);
  return mask;
}

function pairs(bias: StepInput["bias"]): Int32Array {
  const flat = new Int32Array(2 * bias.rows.length);
  for (let i = 0; i < bias.rows.length; i++) {
    flat[2 * i] = bias.rows[i];
    flat[2 * i + 1] = bias.ids[i];
  }
  return flat;
}
