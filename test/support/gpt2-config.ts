import { configOf } from "../../gpu-backend/models/safetensors/config.ts";
import type { ModelConfig } from "../../gpu-backend/runtime/model-config.ts";

/** A model of GPT-2's family with these sizes, as its config.json would be read. */
export function gpt2Config({
  stopIds,
  ...sizes
}: Pick<ModelConfig, "vocabularySize" | "hiddenSize" | "layers" | "heads" | "contextTokens" | "stopIds">): ModelConfig {
  const json = {
    ...{ model_type: "gpt2", vocab_size: sizes.vocabularySize, n_embd: sizes.hiddenSize, n_layer: sizes.layers },
    ...{ n_head: sizes.heads, n_positions: sizes.contextTokens, eos_token_id: 0 },
  };
  return { ...configOf(JSON.stringify(json), "config.json"), stopIds };
}
