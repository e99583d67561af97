/** Reads Hugging Face's config.json (transformers' configuration_*.py). */
import { z } from "zod";
import { parseJson, requireValid } from "../../../shared/artifacts/checked-json.ts";
import { setLimits } from "../../../shared/artifacts/limits.ts";
import { describe } from "../../../shared/describe.ts";
import type { ModelConfig, Rotary } from "../../runtime/model-config.ts";

/** Outside this range, the sum of epsilon and a variance in float32 loses the smaller of the two. */
const epsilon = z.number().min(1e-12).max(0.1);
/** config.json is not trusted, and sizes decide how much memory is allocated. */
const size = (max: number) => z.int().positive().max(max);
const architectures = (name: string) =>
  z
    .array(z.string())
    .refine((names) => names.includes(name), `only ${name} is supported`)
    .nullish();

const gpt2Schema = z.object({
  architectures: architectures("GPT2LMHeadModel"),
  add_cross_attention: z.literal(false).default(false),
  vocab_size: size(setLimits.vocabulary),
  n_embd: size(setLimits.hiddenSize),
  n_layer: size(setLimits.layers),
  n_head: size(setLimits.heads),
  n_positions: size(setLimits.contextTokens),
  n_inner: z.int().positive().nullish(),
  activation_function: z.literal("gelu_new").default("gelu_new"),
  layer_norm_epsilon: epsilon.default(1e-5),
  tie_word_embeddings: z.literal(true).default(true),
  scale_attn_weights: z.literal(true).default(true),
  scale_attn_by_inverse_layer_idx: z.literal(false).default(false),
  eos_token_id: z.int().min(0),
});

const theta = z.number().min(1).max(1e12);
/** Older files call `rope_type` `type`. Newer files have `rope_theta` here. */
const ropeSchema = z.looseObject({ rope_theta: theta.optional() }).nullish();
const llama3Schema = z
  .object({
    factor: z.number().min(1).max(1024),
    low_freq_factor: z.number().positive().max(1024),
    high_freq_factor: z.number().positive().max(1024),
    original_max_position_embeddings: size(setLimits.contextTokens),
  })
  .refine(
    (scaling) => scaling.low_freq_factor < scaling.high_freq_factor,
    "low_freq_factor must be below high_freq_factor",
  );

const llamaSchema = z.object({
  vocab_size: size(setLimits.vocabulary),
  hidden_size: size(setLimits.hiddenSize),
  intermediate_size: size(16 * setLimits.hiddenSize),
  num_hidden_layers: size(setLimits.layers),
  num_attention_heads: size(setLimits.heads),
  num_key_value_heads: size(setLimits.heads).nullish(),
  head_dim: size(setLimits.hiddenSize).nullish(),
  max_position_embeddings: size(setLimits.contextTokens),
  hidden_act: z.literal("silu").default("silu"),
  rms_norm_eps: epsilon.default(1e-6),
  rope_theta: theta.optional(),
  rope_scaling: ropeSchema,
  /** Newer files have this field instead of the two fields above. */
  rope_parameters: ropeSchema,
  partial_rotary_factor: z.literal(1).nullish(),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(false),
  use_sliding_window: z.literal(false, "sliding attention is not supported").default(false),
  layer_types: z.array(z.literal("full_attention", "sliding and hybrid attention are not supported")).nullish(),
  num_experts: z.literal(0, "mixtures of experts are not supported").nullish(),
  num_local_experts: z.literal(0, "mixtures of experts are not supported").nullish(),
  eos_token_id: z.union([z.int().min(0), z.array(z.int().min(0)).min(1).max(16)]),
});
type LlamaJson = z.infer<typeof llamaSchema>;

/** Differences between model types that config.json does not state. */
interface Family {
  architecture: string;
  /** Default: hidden_size / num_attention_heads. */
  headWidth?: number;
  queryKeyNorm: boolean;
  /** Whether only queries, keys and values have biases, whatever `attention_bias` is. */
  hasOwnBiases: boolean;
}
const families = new Map<unknown, Family>([
  ["llama", { architecture: "LlamaForCausalLM", queryKeyNorm: false, hasOwnBiases: false }],
  ["qwen2", { architecture: "Qwen2ForCausalLM", queryKeyNorm: false, hasOwnBiases: true }],
  ["qwen3", { architecture: "Qwen3ForCausalLM", headWidth: 128, queryKeyNorm: true, hasOwnBiases: false }],
]);

/** `text` is the content of config.json. Throws an Error that names `file` and the first faulty field. */
export function configOf(text: string, file: string): ModelConfig {
  const json = parseJson(text, file);
  const type = (json as { model_type?: unknown } | null)?.model_type;
  const family = families.get(type);
  if (!family && type !== "gpt2") {
    const supported = ["gpt2", ...families.keys()].join(", ");
    throw new Error(`${file}: model_type is ${describe(type)}${whyNot(type)}; supported are ${supported}`);
  }
  const config = family ? readLlama(json, family, file) : readGpt2(json, file);
  const { vocabularySize, heads, kvHeads, headWidth, positions } = config;
  const late = config.stopIds.find((id) => id >= vocabularySize);
  if (late !== undefined) {
    throw new Error(`${file}: eos_token_id is ${late}, the vocabulary has ${vocabularySize} entries`);
  }
  if (heads % kvHeads !== 0) {
    throw new Error(`${file}: num_key_value_heads is ${kvHeads}, which does not divide num_attention_heads, ${heads}`);
  }
  if (positions !== "learned" && headWidth % 2 !== 0) {
    throw new Error(`${file}: head_dim is ${headWidth}, rotary positions need an even width`);
  }
  return config;
}

function whyNot(type: unknown): string {
  if (typeof type !== "string") return "";
  if (/moe|mixtral|dbrx|deepseek_v|gpt_oss/.test(type)) return ", a mixture of experts";
  if (/next|mamba|jamba|zamba|bamba|falcon_h|lfm2|granitemoehybrid|nemotron_h/.test(type))
    return ", of hybrid attention";
  if (/^mistral|^gemma[23]|^phi3|^cohere2|^olmo3/.test(type)) return ", of sliding attention";
  return "";
}

function readGpt2(json: unknown, file: string): ModelConfig {
  const raw = requireValid(gpt2Schema, json, file);
  if (raw.n_inner && raw.n_inner !== 4 * raw.n_embd) {
    throw new Error(`${file}: n_inner is ${raw.n_inner}, only 4 × n_embd = ${4 * raw.n_embd} is supported`);
  }
  if (raw.n_embd % raw.n_head !== 0) {
    throw new Error(`${file}: n_head is ${raw.n_head}, which does not divide n_embd, ${raw.n_embd}`);
  }
  return {
    vocabularySize: raw.vocab_size,
    hiddenSize: raw.n_embd,
    layers: raw.n_layer,
    heads: raw.n_head,
    kvHeads: raw.n_head,
    headWidth: raw.n_embd / raw.n_head,
    contextTokens: raw.n_positions,
    stopIds: [raw.eos_token_id],
    feedForwardSize: 4 * raw.n_embd,
    norm: "layer",
    normEpsilon: raw.layer_norm_epsilon,
    activation: "gelu",
    positions: "learned",
    queryKeyNorm: false,
    biases: { queryKeyValue: true, attentionOutput: true, feedForward: true },
    tiedHead: true,
  };
}

function readLlama(json: unknown, family: Family, file: string): ModelConfig {
  const schema = llamaSchema.extend({ architectures: architectures(family.architecture) });
  const raw = requireValid(schema, json, file);
  const { hidden_size: D, num_attention_heads: heads } = raw;
  const headWidth = raw.head_dim ?? family.headWidth ?? D / heads;
  if (!Number.isInteger(headWidth)) {
    throw new Error(`${file}: num_attention_heads is ${heads}, which does not divide hidden_size, ${D}`);
  }
  return {
    vocabularySize: raw.vocab_size,
    hiddenSize: D,
    layers: raw.num_hidden_layers,
    heads,
    kvHeads: raw.num_key_value_heads ?? heads,
    headWidth,
    contextTokens: raw.max_position_embeddings,
    stopIds: [raw.eos_token_id].flat(),
    feedForwardSize: raw.intermediate_size,
    norm: "rms",
    normEpsilon: raw.rms_norm_eps,
    activation: "swiglu",
    positions: rotaryOf(raw, file),
    queryKeyNorm: family.queryKeyNorm,
    biases: {
      queryKeyValue: family.hasOwnBiases || raw.attention_bias,
      attentionOutput: !family.hasOwnBiases && raw.attention_bias,
      feedForward: raw.mlp_bias,
    },
    tiedHead: raw.tie_word_embeddings,
  };
}

function rotaryOf(raw: LlamaJson, file: string): Rotary {
  const field = raw.rope_parameters ? "rope_parameters" : "rope_scaling";
  const given = raw[field] ?? {};
  const rotary = { theta: raw.rope_theta ?? given.rope_theta ?? 10_000, scaling: null };
  const type = given.rope_type ?? given.type ?? "default";
  if (type === "default") return rotary;
  if (type !== "llama3") {
    throw new Error(`${file}: the type of ${field} is ${describe(type)}, only default and llama3 are supported`);
  }
  const scaling = requireValid(llama3Schema, given, `${file}: ${field}`);
  return {
    ...rotary,
    scaling: {
      factor: scaling.factor,
      lowFrequencyFactor: scaling.low_freq_factor,
      highFrequencyFactor: scaling.high_freq_factor,
      originalContextTokens: scaling.original_max_position_embeddings,
    },
  };
}
