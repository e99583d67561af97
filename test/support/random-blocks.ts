/** Seeded random weights in GGUF's blocks. */
import { type BlockType, blockLayouts } from "../../gpu-backend/runtime/block-types.ts";
import type { ModelConfig } from "../../gpu-backend/runtime/model-config.ts";
import type { ModelWeights } from "../../gpu-backend/runtime/model-weights.ts";
import { randomWeights } from "./random-weights.ts";

/** Matrices in 8-bit blocks, in 4-bit blocks and in 4-bit blocks with offsets. A layer's queries, keys and values are of one type. */
export function randomBlocks(config: ModelConfig, random: () => number): ModelWeights {
  return new Map(
    [...randomWeights(config, random)].map(([name, weight]) => {
      if (weight.shape.length < 2) return [name, weight];
      const attends = /q_proj|k_proj|v_proj/.test(name);
      return [
        name,
        { ...weight, ...blocksOf(attends ? "Q4_1" : /down|gate/.test(name) ? "Q4_0" : "Q8_0", weight.shape, random) },
      ];
    }),
  );
}

/** Random integers, which scales of float16 make weights of a standard deviation of about 0.25. */
function blocksOf(dtype: BlockType, [rows, columns]: readonly number[], random: () => number) {
  const { values, bytes: size, bits } = blockLayouts[dtype];
  const bytes = Uint8Array.from({ length: ((rows * columns) / values) * size }, () => Math.floor(random() * 256));
  const view = new DataView(bytes.buffer);
  const scale = 0.9 / 2 ** bits;
  for (let at = 0; at < bytes.length; at += size) {
    view.setFloat16(at, scale * (0.5 + random()), true);
    if (dtype === "Q4_1") view.setFloat16(at + 2, -0.45 + 0.05 * random(), true);
  }
  return { dtype, bytes };
}
