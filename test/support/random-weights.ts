/** Seeded random weights of any model that model-config.ts describes. */
import type { ModelConfig } from "../../gpu-backend/runtime/model-config.ts";
import { type ModelWeights, weightShapes } from "../../gpu-backend/runtime/model-weights.ts";
import { tensorFrom } from "../../shared/artifacts/tensor-file.ts";

/** Uniform weights with this standard deviation. Gains of norms are about 1. */
export function randomWeights(config: ModelConfig, random: () => number, deviation = 0.02): ModelWeights {
  const width = 2 * deviation * Math.sqrt(3);
  return new Map(
    [...weightShapes(config)].map(([name, shape]) => {
      const middle = /norm\.weight$/.test(name) ? 1 : 0;
      const values = Float32Array.from(
        { length: shape.reduce((a, b) => a * b) },
        () => middle + (random() - 0.5) * width,
      );
      return [name, tensorFrom(values, shape)];
    }),
  );
}
