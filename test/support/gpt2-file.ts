/** The tensors in model.safetensors of a GPT-2. */
import type { ModelConfig } from "../../gpu-backend/runtime/model-config.ts";

/** The shape of every tensor by name; matrices of layers are [in, out]. */
export function gpt2Shapes(config: ModelConfig): Map<string, number[]> {
  const { hiddenSize: D, vocabularySize: V } = config;
  const shapes = new Map<string, number[]>([
    ["wte.weight", [V, D]],
    ["wpe.weight", [config.contextTokens, D]],
    ["ln_f.weight", [D]],
    ["ln_f.bias", [D]],
  ]);
  for (let l = 0; l < config.layers; l++) {
    const layer: [string, number[]][] = [
      ["ln_1.weight", [D]],
      ["ln_1.bias", [D]],
      ["attn.c_attn.weight", [D, 3 * D]],
      ["attn.c_attn.bias", [3 * D]],
      ["attn.c_proj.weight", [D, D]],
      ["attn.c_proj.bias", [D]],
      ["ln_2.weight", [D]],
      ["ln_2.bias", [D]],
      ["mlp.c_fc.weight", [D, 4 * D]],
      ["mlp.c_fc.bias", [4 * D]],
      ["mlp.c_proj.weight", [4 * D, D]],
      ["mlp.c_proj.bias", [D]],
    ];
    for (const [name, shape] of layer) shapes.set(`h.${l}.${name}`, shape);
  }
  return shapes;
}
