/** A model folder in miniature whose weights are GGUF: a seeded random Llama with the tokenizer and artifacts of the tiny GPT-2. */
import { createHash } from "node:crypto";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { floatsOf } from "../../gpu-backend/runtime/model-weights.ts";
import { type GgufValue, writeGguf } from "./gguf-writer.ts";
import { randomWeights } from "./random-weights.ts";
import { seededRandom } from "./steps.ts";
import { tinyLlama } from "./tiny-families.ts";
import { writeTinyModel } from "./tiny-model.ts";

const names: Record<string, string> = {
  ...{ "model.embed_tokens": "token_embd", "model.norm": "output_norm" },
  ...{ input_layernorm: "attn_norm", post_attention_layernorm: "ffn_norm" },
  ...{ "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k" },
  ...{ "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output" },
  ...{ "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down" },
};

/** Writes the folder `directory`. `other` metadata replaces the model's own. */
export async function writeGgufModel(directory: string, seed = 7, other: Record<string, GgufValue> = {}) {
  await writeTinyModel(directory, seed);
  rmSync(join(directory, "model.safetensors"));
  const tensors = [...randomWeights(tinyLlama, seededRandom(seed))].map(([name, weight]) => {
    const [, layer, stem] = /^(?:model\.layers\.(\d+)\.)?(.*)\.weight$/.exec(name)!;
    const prefix = layer === undefined ? "" : `blk.${layer}.`;
    return {
      name: `${prefix}${names[stem]}.weight`,
      shape: [...weight.shape],
      values: floatsOf(weight),
      format: "f32" as const,
    };
  });
  const gguf = writeGguf({ ...metadataOf(directory), ...other }, tensors);
  writeFileSync(join(directory, "model.gguf"), gguf);
  const manifestPath = join(directory, "artifacts/manifest.json");
  const manifest = JSON.parse(readFileSync(manifestPath, "utf8"));
  manifest.model.weights = createHash("sha256").update(gguf).digest("hex");
  writeFileSync(manifestPath, JSON.stringify(manifest));
}

function metadataOf(directory: string): Record<string, GgufValue> {
  const { model } = JSON.parse(readFileSync(join(directory, "tokenizer.json"), "utf8"));
  const vocabulary = Object.keys(model.vocab);
  const end = tinyLlama.stopIds[0];
  return {
    "general.architecture": { text: "llama" },
    "llama.context_length": { u32: tinyLlama.contextTokens },
    "llama.embedding_length": { u32: tinyLlama.hiddenSize },
    "llama.feed_forward_length": { u32: tinyLlama.feedForwardSize },
    "llama.block_count": { u32: tinyLlama.layers },
    "llama.attention.head_count": { u32: tinyLlama.heads },
    "llama.attention.head_count_kv": { u32: tinyLlama.kvHeads },
    "llama.attention.key_length": { u32: tinyLlama.headWidth },
    "llama.attention.value_length": { u32: tinyLlama.headWidth },
    "llama.rope.dimension_count": { u32: tinyLlama.headWidth },
    "llama.attention.layer_norm_rms_epsilon": { f32: tinyLlama.normEpsilon },
    "tokenizer.ggml.model": { text: "gpt2" },
    "tokenizer.ggml.pre": { text: "gpt-2" },
    "tokenizer.ggml.tokens": { texts: vocabulary },
    "tokenizer.ggml.token_type": { i32s: vocabulary.map((_, id) => (id === end ? 3 : 1)) },
    "tokenizer.ggml.merges": { texts: model.merges },
    "tokenizer.ggml.eos_token_id": { u32: end },
  };
}
