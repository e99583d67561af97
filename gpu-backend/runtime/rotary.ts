/**
 * Rotary positions (arXiv 2104.09864): at position p, dimensions i and i + d/2 of a head are rotated as a pair by the angle p · f(i).
 * Llama 3's scaling: arXiv 2407.21783, as in `ROPE_INIT_FUNCTIONS["llama3"]` of Hugging Face's transformers.
 */
import type { GraphBuilder } from "./graph.ts";
import type { ModelConfig, Rotary } from "./model-config.ts";
import { floatsOf, type ModelWeights } from "./model-weights.ts";
import { minPrefillTokens } from "./step.ts";

export type RotaryTables = ReturnType<typeof addRotaryTables>;

/** Adds tables [positions, d / 2]. The copy for queries contains 1/√d, the scale of attention's scores. */
export function addRotaryTables(
  g: GraphBuilder,
  { headWidth, contextTokens }: ModelConfig,
  rotary: Rotary,
  weights: ModelWeights,
) {
  const factors = weights.get("rope_freqs.weight");
  const frequencies = rotaryFrequencies(headWidth, rotary, factors ? floatsOf(factors) : null);
  const half = headWidth / 2;
  // More positions than the context, because the last chunk may be padded and the operator reads the rows of padded positions.
  const positions = contextTokens + minPrefillTokens - 1;
  const table = (name: string, of: (angle: number) => number, by = 1) => {
    const values = new Float32Array(positions * half);
    for (let i = 0; i < values.length; i++) values[i] = by * of(Math.floor(i / half) * frequencies[i % half]);
    return g.constant(values, [positions, half], name);
  };
  const scale = 1 / Math.sqrt(headWidth);
  return {
    cosines: table("rotary.cosines", Math.cos),
    sines: table("rotary.sines", Math.sin),
    scaledCosines: table("rotary.scaled_cosines", Math.cos, scale),
    scaledSines: table("rotary.scaled_sines", Math.sin, scale),
  };
}

/** Radians per position, [d / 2], divided by a GGUF file's `factors` [d / 2] if given. */
export function rotaryFrequencies(
  headWidth: number,
  { theta, scaling }: Rotary,
  factors: Float32Array | null,
): Float64Array {
  return Float64Array.from({ length: headWidth / 2 }, (_, i) => {
    const frequency = theta ** ((-2 * i) / headWidth) / (factors?.[i] ?? 1);
    if (!scaling) return frequency;
    const turns = (scaling.originalContextTokens * frequency) / (2 * Math.PI);
    const { factor, lowFrequencyFactor: low, highFrequencyFactor: high } = scaling;
    // Frequencies of at most `low` turns in the original context are divided by `factor`. Those of at least `high` turns are kept.
    // Between the two, a weighted mean is used.
    const kept = Math.min(1, Math.max(0, (turns - low) / (high - low)));
    return frequency * (kept + (1 - kept) / factor);
  });
}
