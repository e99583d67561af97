/**
 * SmoothQuant (Xiao et al. 2022, arXiv 2211.10438). Rounding activations to int8 with a scale per row is inaccurate if a few channels are
 * far larger than the others. Dividing these channels, and multiplying the weights that read them, leaves the product unchanged. The
 * division is free, because it is folded into the weights that make the channels, such as a norm's.
 */
import { requireFloats, type TensorFile } from "../../shared/artifacts/tensor-file.ts";
import type { ModelConfig } from "./model-config.ts";
import { floatsOf, type ModelWeights, type Weight, weightOf } from "./model-weights.ts";

/**
 * How much of the channels' range moves from the activations to the weights, 0 to 1. Kullback-Leibler divergence of int8 from fp32 on
 * SmolLM2, in nats a token, with a head wholly in int8: 0.0116 at 0.1, 0.0049 at 0.2, 0.0039 at 0.3, 0.0034 at 0.4, 0.0036 at 0.5, 0.0050
 * at 0.6. Channels are measured by root mean squares, because the activations of a text's first token dominate the paper's maxima.
 */
const alpha = 0.4;

interface Smoothed {
  /** Names of matrices, without `.weight`. */
  readers: string[];
  /** Name of the matrix or norm whose rows or entries are divided. */
  maker: string;
  /** Row of the maker for a channel. Several channels may share a row. */
  rowOf: (channel: number) => number;
  rows: number;
}

function smoothedProducts(config: ModelConfig): Smoothed[] {
  const { hiddenSize: D, feedForwardSize: F, heads, kvHeads, headWidth, activation } = config;
  const same = (channel: number) => channel;
  const valueRow = (channel: number) => {
    const head = Math.floor(channel / headWidth);
    return Math.floor(head / (heads / kvHeads)) * headWidth + (channel % headWidth);
  };
  const products: Smoothed[] = [];
  for (let l = 0; l < config.layers; l++) {
    const at = (name: string) => `model.layers.${l}.${name}`;
    const inputs = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].map(at);
    products.push({ readers: inputs, maker: at("input_layernorm"), rowOf: same, rows: D });
    const maker = at("self_attn.v_proj");
    products.push({ readers: [at("self_attn.o_proj")], maker, rowOf: valueRow, rows: kvHeads * headWidth });
    const inner = activation === "swiglu" ? ["mlp.gate_proj", "mlp.up_proj"] : ["mlp.up_proj"];
    products.push({ readers: inner.map(at), maker: at("post_attention_layernorm"), rowOf: same, rows: D });
    // With GELU between up and down, a factor on up would change the result.
    if (activation === "swiglu")
      products.push({ readers: [at("mlp.down_proj")], maker: at("mlp.up_proj"), rowOf: same, rows: F });
  }
  return products;
}

/** Number of channels, by the name of the first matrix that reads the input. */
export function smoothedInputs(config: ModelConfig, weights: ModelWeights): Map<string, number> {
  const products = smoothedProducts(config).map(({ readers }) => readers[0]);
  return new Map(products.map((name) => [name, weightOf(weights, `${name}.weight`).shape[1]]));
}

/** Weights are computed when their bytes are read. Throws an Error if `magnitudes` has not one number for each smoothed channel. */
export function smoothed(config: ModelConfig, weights: ModelWeights, magnitudes: TensorFile): ModelWeights {
  const factors = new Map<string, { rows?: Float32Array; columns?: Float32Array }>();
  for (const { readers, maker, rowOf, rows } of smoothedProducts(config)) {
    const ofWeights = columnMaxima(weights, readers);
    const ofInputs = requireFloats(magnitudes, readers[0], [ofWeights.length], "smoothing");
    const scales = scalesOf(ofInputs, ofWeights, rowOf, rows);
    const columns = Float32Array.from(ofInputs, (_, channel) => scales[rowOf(channel)]);
    for (const name of readers) factors.set(`${name}.weight`, { ...factors.get(`${name}.weight`), columns });
    const inverse = scales.map((scale) => 1 / scale);
    for (const name of [`${maker}.weight`, `${maker}.bias`]) {
      if (weights.has(name)) factors.set(name, { ...factors.get(name), rows: inverse });
    }
  }
  const result = new Map(weights);
  for (const [name, { rows, columns }] of factors) {
    const weight = weightOf(weights, name);
    result.set(name, multiplied(weight, rows, columns));
  }
  return result;
}

/** Divisors, 1 for channels whose activations or weights are all 0. */
function scalesOf(inputs: Float32Array, weights: Float32Array, rowOf: Smoothed["rowOf"], rows: number): Float32Array {
  const greatest = { inputs: new Float32Array(rows), weights: new Float32Array(rows) };
  inputs.forEach((value, channel) => {
    const row = rowOf(channel);
    greatest.inputs[row] = Math.max(greatest.inputs[row], value);
    greatest.weights[row] = Math.max(greatest.weights[row], weights[channel]);
  });
  return greatest.inputs.map((input, row) => {
    const scale = input ** alpha / greatest.weights[row] ** (1 - alpha);
    return scale > 0 && Number.isFinite(scale) ? scale : 1;
  });
}

/** Greatest magnitudes over matrices [out, in] with the same number of columns. */
function columnMaxima(weights: ModelWeights, names: readonly string[]): Float32Array {
  const matrices = names.map((name) => weightOf(weights, `${name}.weight`));
  const maxima = new Float32Array(matrices[0].shape[1]);
  for (const matrix of matrices) {
    const values = floatsOf(matrix);
    for (let i = 0; i < values.length; i += maxima.length) {
      for (let j = 0; j < maxima.length; j++) maxima[j] = Math.max(maxima[j], Math.abs(values[i + j]));
    }
  }
  return maxima;
}

function multiplied(weight: Weight, rows?: Float32Array, columns?: Float32Array): Weight {
  const [count, width = 1] = weight.shape;
  return {
    dtype: "F32",
    shape: weight.shape,
    get bytes() {
      const values = floatsOf(weight);
      for (let i = 0; i < count; i++) {
        for (let j = 0; j < width; j++) values[i * width + j] *= (rows?.[i] ?? 1) * (columns?.[j] ?? 1);
      }
      return new Uint8Array(values.buffer);
    },
  };
}
