/** Matrices are [out, in] and have the names that Hugging Face uses for Llama. Blocks of GGUF lie along a row. */
import { type Dtype, isFloat, toFloat32 } from "../../shared/artifacts/tensor-file.ts";
import { type BlockType, blockLayouts, dequantise } from "./block-types.ts";
import type { ModelConfig } from "./model-config.ts";

export interface Weight {
  dtype: Dtype | BlockType;
  shape: readonly number[];
  /** Little-endian, row-major. */
  bytes: Uint8Array;
}
export type ModelWeights = ReadonlyMap<string, Weight>;

export function weightOf(weights: ModelWeights, name: string): Weight {
  const weight = weights.get(name);
  if (!weight) throw new Error(`the model has no tensor ${name}`);
  return weight;
}

/** Values are row-major. Throws an Error if the weight does not hold floats. */
export function floatsOf({ dtype, shape, bytes }: Weight): Float32Array<ArrayBuffer> {
  if (isBlockType(dtype)) return dequantise(dtype, bytes);
  return toFloat32({ dtype, shape: [...shape], bytes });
}

export function isBlockType(dtype: Weight["dtype"]): dtype is BlockType {
  return Object.hasOwn(blockLayouts, dtype);
}

export function weightShapes(config: ModelConfig): Map<string, number[]> {
  const { vocabularySize: V, hiddenSize: D, feedForwardSize: F, heads: H, kvHeads: K, headWidth: d, biases } = config;
  const shapes = new Map<string, number[]>();
  const add = (name: string, shape: number[], hasBias: boolean) => {
    shapes.set(`${name}.weight`, shape);
    if (hasBias) shapes.set(`${name}.bias`, shape.slice(0, 1));
  };
  const isLayerNorm = config.norm === "layer";
  add("model.embed_tokens", [V, D], false);
  if (config.positions === "learned") add("model.embed_positions", [config.contextTokens, D], false);
  add("model.norm", [D], isLayerNorm);
  if (!config.tiedHead) add("lm_head", [V, D], false);
  for (let l = 0; l < config.layers; l++) {
    const layer = `model.layers.${l}`;
    add(`${layer}.input_layernorm`, [D], isLayerNorm);
    add(`${layer}.self_attn.q_proj`, [H * d, D], biases.queryKeyValue);
    add(`${layer}.self_attn.k_proj`, [K * d, D], biases.queryKeyValue);
    add(`${layer}.self_attn.v_proj`, [K * d, D], biases.queryKeyValue);
    if (config.queryKeyNorm) {
      add(`${layer}.self_attn.q_norm`, [d], false);
      add(`${layer}.self_attn.k_norm`, [d], false);
    }
    add(`${layer}.self_attn.o_proj`, [D, H * d], biases.attentionOutput);
    add(`${layer}.post_attention_layernorm`, [D], isLayerNorm);
    if (config.activation === "swiglu") add(`${layer}.mlp.gate_proj`, [F, D], biases.feedForward);
    add(`${layer}.mlp.up_proj`, [F, D], biases.feedForward);
    add(`${layer}.mlp.down_proj`, [D, F], biases.feedForward);
  }
  return shapes;
}

export function parametersOf(config: ModelConfig): number {
  let elements = 0;
  for (const shape of weightShapes(config).values()) elements += shape.reduce((a, b) => a * b);
  return elements;
}

/** Throws an Error for a missing or wrong tensor. The message begins with `what`, the file's name. */
export function checkWeights(what: string, config: ModelConfig, weights: ModelWeights): void {
  for (const [name, shape] of weightShapes(config)) {
    const found = weights.get(name);
    if (!found) throw new Error(`${what} has no tensor ${name}`);
    if (`${found.shape}` !== `${shape}`) throw new Error(`${what}: ${name} is [${found.shape}], not [${shape}]`);
    if (!isBlockType(found.dtype) && !isFloat(found.dtype)) {
      throw new Error(`${what}: ${name} is ${found.dtype}, not a float of up to 32 bits`);
    }
  }
}
