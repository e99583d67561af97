import { configOf } from "../../gpu-backend/models/safetensors/config.ts";
import type { ModelConfig } from "../../gpu-backend/runtime/model-config.ts";

export type Gpt2Sizes = Pick<
  ModelConfig,
  "vocabularySize" | "hiddenSize" | "layers" | "heads" | "contextTokens" | "stopIds"
>;

export function gpt2Json({ vocabularySize, hiddenSize, layers, heads, contextTokens, stopIds }: Gpt2Sizes): string {
  return JSON.stringify({
    ...{ architectures: ["GPT2LMHeadModel"], model_type: "gpt2", vocab_size: vocabularySize, n_embd: hiddenSize },
    ...{ n_layer: layers, n_head: heads, n_positions: contextTokens, eos_token_id: stopIds[0] },
  });
}

/** The configuration that is read from `gpt2Json`, but with all stop ids. */
export function gpt2Config(sizes: Gpt2Sizes): ModelConfig {
  return { ...configOf(gpt2Json(sizes), "config.json"), stopIds: sizes.stopIds };
}
