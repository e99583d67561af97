/**
 * GPT-2 as llama.cpp reads it: its tensor names, linear layers as [out, in], the tied matrix stored once, the tokenizer in
 * the metadata. In q8_0 and q4_0 every matrix but the positions is in that format; llama-quantize would keep the tied matrix
 * of a q4_0 file at 6 bits, which is slower.
 */

import type { ModelConfig } from "../../../gpu-backend/runtime/model-config.ts";
import { transpose } from "../../../gpu-backend/runtime/transpose.ts";
import { type TensorFile, tensorOf, toFloat32 } from "../../../shared/artifacts/tensor-file.ts";
import type { VocabularyFiles } from "../../support/gpt2-vocabulary.ts";
import { type GgufFormat, type GgufTensor, type GgufValue, writeGguf } from "./gguf.ts";

/** Ours → llama.cpp's. */
const layerNames: Record<string, string> = {
  ln_1: "attn_norm",
  "attn.c_attn": "attn_qkv",
  "attn.c_proj": "attn_output",
  ln_2: "ffn_norm",
  "mlp.c_fc": "ffn_up",
  "mlp.c_proj": "ffn_down",
};
const fileTypes: Record<GgufFormat, number> = { f32: 0, q4_0: 2, q8_0: 7 };
const tokenTypes = { normal: 1, control: 3 };

export function buildGguf(
  config: ModelConfig,
  weights: TensorFile,
  vocabulary: VocabularyFiles,
  format: GgufFormat,
): Uint8Array {
  const tensors: GgufTensor[] = [];
  const add = (name: string, from: string, as: GgufFormat) => {
    const { shape } = tensorOf(weights, from);
    tensors.push({ name, shape, values: toFloat32(tensorOf(weights, from)), format: as });
  };
  add("token_embd.weight", "wte.weight", format);
  add("position_embd.weight", "wpe.weight", "f32");
  add("output_norm.weight", "ln_f.weight", "f32");
  add("output_norm.bias", "ln_f.bias", "f32");
  for (let l = 0; l < config.layers; l++) {
    for (const [ours, theirs] of Object.entries(layerNames)) {
      const name = `h.${l}.${ours}.weight`;
      const [rows, columns] = tensorOf(weights, name).shape;
      if (columns === undefined) add(`blk.${l}.${theirs}.weight`, name, "f32");
      else {
        const values = transpose(toFloat32(tensorOf(weights, name)), rows, columns);
        tensors.push({ name: `blk.${l}.${theirs}.weight`, shape: [columns, rows], values, format });
      }
      add(`blk.${l}.${theirs}.bias`, `h.${l}.${ours}.bias`, "f32");
    }
  }
  return writeGguf(metadataOf(config, vocabulary, format), tensors);
}

function metadataOf(
  config: ModelConfig,
  { vocabJson, mergesTxt }: VocabularyFiles,
  format: GgufFormat,
): Record<string, GgufValue> {
  const ids: Record<string, number> = JSON.parse(vocabJson);
  const tokens = Object.keys(ids).sort((a, b) => ids[a] - ids[b]);
  const merges = mergesTxt.split("\n").filter((line) => line !== "" && !line.startsWith("#version"));
  return {
    "general.architecture": { text: "gpt2" },
    "general.name": { text: "random" },
    "general.file_type": { u32: fileTypes[format] },
    "gpt2.context_length": { u32: config.contextTokens },
    "gpt2.embedding_length": { u32: config.hiddenSize },
    "gpt2.feed_forward_length": { u32: 4 * config.hiddenSize },
    "gpt2.block_count": { u32: config.layers },
    "gpt2.attention.head_count": { u32: config.heads },
    "gpt2.attention.layer_norm_epsilon": { f32: config.normEpsilon },
    "tokenizer.ggml.model": { text: "gpt2" },
    "tokenizer.ggml.pre": { text: "gpt-2" },
    "tokenizer.ggml.tokens": { texts: tokens },
    "tokenizer.ggml.token_type": {
      i32s: tokens.map((_, id) => (id === config.stopIds[0] ? tokenTypes.control : tokenTypes.normal)),
    },
    "tokenizer.ggml.merges": { texts: merges },
    "tokenizer.ggml.bos_token_id": { u32: config.stopIds[0] },
    "tokenizer.ggml.eos_token_id": { u32: config.stopIds[0] },
  };
}
