/** GPT-2's matrices, [in, out], are transposed when their bytes are accessed. */
import { isFloat, type Tensor, type TensorFile, toFloat32 } from "../../../shared/artifacts/tensor-file.ts";
import type { ModelConfig } from "../../runtime/model-config.ts";
import type { ModelWeights, Weight } from "../../runtime/model-weights.ts";
import { transpose } from "../../runtime/transpose.ts";

const wholeNames = {
  "wte.weight": "model.embed_tokens.weight",
  "wpe.weight": "model.embed_positions.weight",
  "ln_f.weight": "model.norm.weight",
  "ln_f.bias": "model.norm.bias",
};
const layerNorms = { ln_1: "input_layernorm", ln_2: "post_attention_layernorm" };
const layerProducts = {
  "attn.c_attn": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
  "attn.c_proj": ["self_attn.o_proj"],
  "mlp.c_fc": ["mlp.up_proj"],
  "mlp.c_proj": ["mlp.down_proj"],
};

/** Some files put this prefix before the names of all tensors. */
const prefix = "transformer.";

export function isGpt2(file: TensorFile): boolean {
  return file.has("wte.weight") || file.has(`${prefix}wte.weight`);
}

/** Error messages begin with `what`, the file's name. */
export function gpt2Weights({ layers }: Pick<ModelConfig, "layers">, file: TensorFile, what: string): ModelWeights {
  const tensorOf = (name: string): Tensor => {
    const tensor = file.get(name) ?? file.get(prefix + name);
    if (!tensor) throw new Error(`${what} has no tensor ${name}`);
    if (isFloat(tensor.dtype)) return tensor;
    throw new Error(`${what}: ${name} is ${tensor.dtype}, not a float of up to 32 bits`);
  };
  const weights = new Map<string, Weight>();
  for (const [theirs, ours] of Object.entries(wholeNames)) weights.set(ours, tensorOf(theirs));
  for (let l = 0; l < layers; l++) {
    for (const [theirs, ours] of Object.entries(layerNorms)) {
      for (const kind of ["weight", "bias"]) {
        weights.set(`model.layers.${l}.${ours}.${kind}`, tensorOf(`h.${l}.${theirs}.${kind}`));
      }
    }
    for (const [theirs, parts] of Object.entries(layerProducts)) {
      const matrix = tensorOf(`h.${l}.${theirs}.weight`);
      const bias = tensorOf(`h.${l}.${theirs}.bias`);
      parts.forEach((ours, part) => {
        weights.set(`model.layers.${l}.${ours}.weight`, partOf(matrix, part, parts.length));
        weights.set(`model.layers.${l}.${ours}.bias`, partOf(bias, part, parts.length));
      });
    }
  }
  return weights;
}

/** A part of a matrix [in, out] is transposed to [out / parts, in]. */
function partOf({ dtype, shape, bytes }: Tensor, part: number, parts: number): Weight {
  const [columns, rows = 1] = shape.toReversed();
  const count = columns / parts;
  return {
    dtype: "F32",
    shape: shape.length > 1 ? [count, rows] : [count],
    get bytes() {
      const turned = transpose(toFloat32({ dtype, shape, bytes }), rows, columns);
      return new Uint8Array(turned.buffer, 4 * part * count * rows, 4 * count * rows);
    },
  };
}
