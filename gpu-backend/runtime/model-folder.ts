/** Reads a Hugging Face model folder: config.json and model.safetensors of a GPT2LMHeadModel. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { setLimits } from "../../shared/artifacts/limits.ts";
import { isFloat, readTensorFile, type TensorFile, tensorOf } from "../../shared/artifacts/tensor-file.ts";
import { gpt2Config, type ModelConfig } from "./model-config.ts";

/** Maximum number of parameters: two bytes each in model.safetensors, of which Node reads 2 GiB in one piece. */
const maxParameters = 2 ** 30 - 1;
/** Outside this range, float32 rounds away the epsilon or the variance in their sum. */
const epsilon = { smallest: 1e-12, largest: 0.1 };
const size = (max: number) => z.int().positive().max(max);

/** The sizes are bounded as in a manifest: config.json is not trusted, and memory is allocated by them. */
const configSchema = z.object({
  model_type: z.literal("gpt2"),
  architectures: z
    .array(z.string())
    .refine((names) => names.includes("GPT2LMHeadModel"), "only GPT2LMHeadModel is supported")
    .nullish(),
  add_cross_attention: z.literal(false).default(false),
  vocab_size: size(setLimits.vocabulary),
  n_embd: size(setLimits.hiddenSize),
  n_layer: size(setLimits.layers),
  n_head: size(setLimits.heads),
  n_positions: size(setLimits.contextTokens),
  n_inner: z.int().positive().nullish(),
  activation_function: z.literal("gelu_new").default("gelu_new"),
  layer_norm_epsilon: z.number().min(epsilon.smallest).max(epsilon.largest).default(1e-5),
  tie_word_embeddings: z.literal(true).default(true),
  scale_attn_weights: z.literal(true).default(true),
  scale_attn_by_inverse_layer_idx: z.literal(false).default(false),
  eos_token_id: z.int().min(0),
});

export interface ModelFolder {
  config: ModelConfig;
  weights: TensorFile;
  /** SHA-256 of model.safetensors. */
  weightsHash: string;
}

/**
 * Reads and checks a model folder. Tensor names lose the `transformer.` prefix that some exports carry.
 * Throws an Error that names the file and the field or tensor at fault.
 */
export async function readModelFolder(directory: string): Promise<ModelFolder> {
  const config = await readModelConfig(directory);
  const bytes = await readFile(join(directory, "model.safetensors"));
  const weights: TensorFile = new Map();
  for (const [name, tensor] of readTensorFile(bytes)) weights.set(name.replace(/^transformer\./, ""), tensor);
  checkShapes(directory, config, weights);
  return { config, weights, weightsHash: createHash("sha256").update(bytes).digest("hex") };
}

/**
 * Reads and checks config.json alone.
 * Throws an Error of one line that names the file, and the first field at fault with its value.
 */
export async function readModelConfig(directory: string): Promise<ModelConfig> {
  const configFile = join(directory, "config.json");
  const json = parseJson(await readFile(configFile, "utf8"), configFile);
  const parsed = configSchema.safeParse(json);
  if (!parsed.success) {
    const [{ path, message }] = parsed.error.issues;
    const value = path.reduce<unknown>((at, key) => (at as Record<PropertyKey, unknown> | null)?.[key], json);
    const found = path.length > 0 ? `${path.join(".")} is ${JSON.stringify(value)?.slice(0, 80) ?? "missing"}: ` : "";
    throw new Error(`${configFile} does not describe a GPT-2 we can serve: ${found}${message}`);
  }
  const raw = parsed.data;
  const refuse = (why: string) => new Error(`${configFile}: ${why}`);
  if (raw.n_inner && raw.n_inner !== 4 * raw.n_embd) {
    throw refuse(`n_inner is ${raw.n_inner}, only 4 × n_embd = ${4 * raw.n_embd} is supported`);
  }
  if (raw.n_embd % raw.n_head !== 0)
    throw refuse(`n_head is ${raw.n_head}, which does not divide n_embd, ${raw.n_embd}`);
  if (raw.eos_token_id >= raw.vocab_size) {
    throw refuse(`eos_token_id is ${raw.eos_token_id}, the vocabulary has ${raw.vocab_size} entries`);
  }
  const config = gpt2Config({
    vocabularySize: raw.vocab_size,
    hiddenSize: raw.n_embd,
    layers: raw.n_layer,
    heads: raw.n_head,
    contextTokens: raw.n_positions,
    normEpsilon: raw.layer_norm_epsilon,
    stopIds: [raw.eos_token_id],
  });
  const parameters = parametersOf(config);
  if (parameters > maxParameters) {
    throw refuse(`its sizes make ${parameters} parameters, the maximum is ${maxParameters}`);
  }
  return config;
}

/** Elements of all tensors of `expectedShapes`. */
export function parametersOf({ hiddenSize: D, vocabularySize: V, contextTokens, layers }: ModelConfig): number {
  return (V + contextTokens + 2) * D + layers * (12 * D + 13) * D;
}

function parseJson(text: string, file: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new Error(`${file} is no JSON: ${(cause as Error).message.split("\n")[0]}`, { cause });
  }
}

/** Every tensor the trunk needs, with its shape (Conv1D weights are [in, out]). */
export function expectedShapes(config: ModelConfig): Map<string, number[]> {
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

function checkShapes(directory: string, config: ModelConfig, weights: TensorFile): void {
  for (const [name, shape] of expectedShapes(config)) {
    const found = weights.get(name)?.shape;
    if (!found) throw new Error(`${directory}/model.safetensors has no tensor ${name}`);
    const { dtype } = tensorOf(weights, name);
    if (!isFloat(dtype))
      throw new Error(`${directory}/model.safetensors: ${name} is ${dtype}, not a float of up to 32 bits`);
    if (found.join() !== shape.join()) {
      throw new Error(`${directory}/model.safetensors: ${name} is [${found}], config.json asks for [${shape}]`);
    }
  }
}
