/** Prompts that are computed for their hidden states or keys, without an answer. */
import { joinArrays } from "../../shared/bytes.ts";
import type { Kv, KvStore } from "../kv/runner.ts";
import { writeKey } from "../memory/keys.ts";

/** What is computed of each prompt: a memory's keys, or hidden states before its tokens. `from`: index of the first such token in each. */
export type Traced = { kind: "keys" } | { kind: "hidden"; from: readonly number[] };

/** Hidden states [N, D] or, for the kind `keys`, a key for each of the n tokens of a prompt, [n, D]. */
export type TracedValues = Float32Array<ArrayBuffer> | Int8Array<ArrayBuffer>;

export interface Trace {
  readonly kind: Traced["kind"];
  readonly from: number;
  /** Hidden states [D] of the wanted positions, in order, without any adapter. Each pass adds those that it computes. */
  readonly hidden: Float32Array<ArrayBuffer>[];
  /** A key [D] of each token of a computed prompt, for the kind `keys`. */
  keys: Int8Array<ArrayBuffer>;
  /** Called once, when the prompt is computed. */
  take(values: TracedValues): void;
}

/** Reads the keys of a computed prompt, if they are wanted. */
export async function readKeys(
  { trace, row, promptTokens }: { trace: Trace | null; row: Kv; promptTokens: number },
  kv: Pick<KvStore, "states">,
): Promise<void> {
  if (trace?.kind !== "keys") return;
  const states = await kv.states(Array.from({ length: promptTokens }, (_, position) => ({ kv: row, position })));
  const D = states[0].length;
  trace.keys = new Int8Array(promptTokens * D);
  for (const [t, state] of states.entries()) writeKey(state, trace.keys.subarray(t * D, (t + 1) * D));
}

export function tracedValues({ kind, hidden, keys }: Trace): TracedValues {
  return kind === "keys" ? keys : joinArrays<Float32Array<ArrayBuffer>>(Float32Array, hidden);
}
