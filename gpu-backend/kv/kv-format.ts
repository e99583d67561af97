/** Keys and values as a graph gives them → as they are stored. Pure. */
import type { KvFormat, ModelShape } from "../runtime/step.ts";
import { free, type KvCopy } from "./kv-memory.ts";

const greatest = 127;

/**
 * Keys and values `present`, [2L, S, H, T, d], by array. As int8 they are followed by their scales, [S, H, T, 1] for each array: a
 * vector's greatest element is ±127. Owns the array.
 */
export function storedAs(
  format: KvFormat = "fp32",
  present: Float32Array<ArrayBuffer>,
  { layers, headWidth: d }: Pick<ModelShape, "layers" | "headWidth">,
): KvCopy {
  const arrays = 2 * layers;
  const split = <T extends Float32Array<ArrayBuffer> | Int8Array<ArrayBuffer>>(all: T) => {
    const elements = all.length / arrays;
    return Array.from({ length: arrays }, (_, i) => all.subarray(i * elements, (i + 1) * elements) as T);
  };
  if (format === "fp32") return split(present);
  const values = new Int8Array(present.length);
  const scales = new Float32Array(present.length / d);
  for (let v = 0, start = 0; v < scales.length; v++, start += d) {
    let least = 0;
    let most = 0;
    for (let e = start; e < start + d; e++) {
      const x = present[e];
      if (x > most) most = x;
      else if (x < least) least = x;
    }
    most = Math.max(most, -least);
    const inverse = most > 0 ? greatest / most : 0;
    // Rounds. Math.round takes ten times as long: integers above 0 are truncated by one instruction.
    for (let e = start; e < start + d; e++) values[e] = ((present[e] * inverse + greatest + 0.5) | 0) - greatest;
    scales[v] = most / greatest;
  }
  free(present);
  return [...split(values), ...split(scales)];
}
