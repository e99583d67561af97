/** Prompts that are computed for their states or keys, without an answer. */
import { joinArrays } from "../../shared/bytes.ts";
import { writeKey } from "../memory/keys.ts";

/** What is wanted of each prompt: a memory's keys, or the hidden states before the tokens from index `from` on. */
export type Traced = { kind: "keys" } | { kind: "hidden"; from: readonly number[] };

/** Hidden states [N, D], or a key for each of the n tokens of a prompt, [n, D]. */
export type TracedValues = Float32Array<ArrayBuffer> | Int8Array<ArrayBuffer>;

/** The trace of one prompt. */
export interface Trace {
  readonly kind: Traced["kind"];
  readonly from: number;
  /** Hidden states [D] of the wanted positions, in order; passes add them. No adapter changes them. */
  readonly hidden: Float32Array<ArrayBuffer>[];
  /** Called once, when the prompt is computed. */
  take(values: TracedValues): void;
}

/** The values of a computed prompt. `stateAt` returns the state [D] that enters the last feed-forward part at a position. */
export function tracedValues(
  { kind, hidden }: Trace,
  tokens: number,
  stateAt: (position: number) => Float32Array,
): TracedValues {
  if (kind === "hidden") return joinArrays<Float32Array<ArrayBuffer>>(Float32Array, hidden);
  const D = stateAt(0).length;
  const keys = new Int8Array(tokens * D);
  for (let t = 0; t < tokens; t++) writeKey(stateAt(t), keys.subarray(t * D, (t + 1) * D));
  return keys;
}
