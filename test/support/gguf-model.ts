/** GGUF files of models, and a folder with one: a random Llama with the tokenizer and artifacts of the tiny GPT-2. */
import { createHash } from "node:crypto";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ModelConfig } from "../../gpu-backend/runtime/model-config.ts";
import { floatsOf } from "../../gpu-backend/runtime/model-weights.ts";
import { type GgufValue, writeGguf } from "./gguf-writer.ts";
import { randomWeights } from "./random-weights.ts";
import { seededRandom } from "./steps.ts";
import { tinyLlama } from "./tiny-families.ts";
import { writeTinyModel } from "./tiny-model.ts";

const names: Record<string, string> = {
  ...{ "model.embed_tokens": "token_embd", "model.embed_positions": "position_embd" },
  ...{ "model.norm": "output_norm", lm_head: "output" },
  ...{ input_layernorm: "attn_norm", post_attention_layernorm: "ffn_norm" },
  ...{ "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k" },
  ...{ "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output" },
  ...{ "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm" },
  ...{ "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down" },
};

export function ggufName(name: string): string {
  const [, layer, stem, kind] = /^(?:model\.layers\.(\d+)\.)?(.*)\.(weight|bias)$/.exec(name)!;
  return `${layer === undefined ? "" : `blk.${layer}.`}${names[stem]}.${kind}`;
}

export function ggufSizes(architecture: string, config: ModelConfig): Record<string, GgufValue> {
  return {
    "general.architecture": { text: architecture },
    [`${architecture}.context_length`]: { u32: config.contextTokens },
    [`${architecture}.embedding_length`]: { u32: config.hiddenSize },
    [`${architecture}.feed_forward_length`]: { u32: config.feedForwardSize },
    [`${architecture}.block_count`]: { u32: config.layers },
    [`${architecture}.attention.head_count`]: { u32: config.heads },
    [`${architecture}.attention.head_count_kv`]: { u32: config.kvHeads },
    [`${architecture}.attention.layer_norm_rms_epsilon`]: { f32: config.normEpsilon },
  };
}

/** `other` metadata replaces the model's own. */
export async function writeGgufModel(directory: string, seed = 7, other: Record<string, GgufValue> = {}) {
  await writeTinyModel(directory, seed);
  rmSync(join(directory, "model.safetensors"));
  const tensors = [...randomWeights(tinyLlama, seededRandom(seed))].map(([name, weight]) => {
    return { name: ggufName(name), shape: [...weight.shape], values: floatsOf(weight), format: "f32" as const };
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
    ...ggufSizes("llama", tinyLlama),
    "llama.attention.key_length": { u32: tinyLlama.headWidth },
    "llama.attention.value_length": { u32: tinyLlama.headWidth },
    "llama.rope.dimension_count": { u32: tinyLlama.headWidth },
    "tokenizer.ggml.model": { text: "gpt2" },
    "tokenizer.ggml.pre": { text: "gpt-2" },
    "tokenizer.ggml.tokens": { texts: vocabulary },
    "tokenizer.ggml.token_type": { i32s: vocabulary.map((_, id) => (id === end ? 3 : 1)) },
    "tokenizer.ggml.merges": { texts: model.merges },
    "tokenizer.ggml.eos_token_id": { u32: end },
  };
}
