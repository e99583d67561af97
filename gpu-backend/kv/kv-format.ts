import { int8Greatest, int8Least, type KvFormat, type ModelShape } from "../runtime/step.ts";
import { free, type KvCopy } from "./kv-memory.ts";

/** Adding this number to a float32 below 2²² rounds it to an integer, halves to even. */
const rounding = 1.5 * 2 ** 23;

/** `present` is [2L, S, H, T, d]. For int8, arrays of scales, [S, H, T, 1], come last. Takes ownership of `present`. */
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
    // float32 throughout, because drafts are rounded in the graph (attention-graph.ts) and must get the same bits.
    const inverse = Math.fround(int8Greatest / Math.max(most, Math.fround(int8Least)));
    for (let e = start; e < start + d; e++) {
      values[e] = Math.fround(Math.fround(present[e] * inverse) + rounding) - rounding;
    }
    scales[v] = most / int8Greatest;
  }
  free(present);
  return [...split(values), ...split(scales)];
}
