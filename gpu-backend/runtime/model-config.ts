/**
 * Sizes of a language model, and how the supported families differ.
 * Sources: GPT-2 (Radford et al. 2019), Llama (arXiv 2302.13971, 2407.21783), Qwen2 and Qwen3 (arXiv 2407.10671, 2505.09388).
 */
import type { ModelShape } from "./step.ts";

export interface ModelConfig extends ModelShape {
  feedForwardSize: number; // F
  norm: "layer" | "rms";
  normEpsilon: number;
  /** gelu: down(gelu(up(x))), with GELU's tanh form; swiglu: down(silu(gate(x)) · up(x)) (arXiv 2002.05202). */
  activation: "gelu" | "swiglu";
  positions: "learned" | Rotary;
  /** Whether each head's queries and keys are normalised before rotation. */
  queryKeyNorm: boolean;
  biases: { queryKeyValue: boolean; attentionOutput: boolean; feedForward: boolean };
  tiedHead: boolean;
}

/** Rotary positions (arXiv 2104.09864): dimensions i and i + d/2 of a head are rotated as a pair. */
export interface Rotary {
  theta: number;
  /** Llama 3's scaling of low frequencies for longer contexts. */
  scaling: {
    factor: number;
    lowFrequencyFactor: number;
    highFrequencyFactor: number;
    originalContextTokens: number;
  } | null;
}
