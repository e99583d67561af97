import type { KvFormat, ModelShape } from "../runtime/step.ts";
import { free, type KvCopy } from "./kv-memory.ts";

const greatest = 127;

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
    const inverse = most > 0 ? greatest / most : 0;
    // Adding 127.5 makes the number positive, so that truncation rounds. Math.round would take ten times as long.
    for (let e = start; e < start + d; e++) values[e] = ((present[e] * inverse + greatest + 0.5) | 0) - greatest;
    scales[v] = most / greatest;
  }
  free(present);
  return [...split(values), ...split(scales)];
}
