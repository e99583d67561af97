/** A traced prompt is computed for its hidden states or keys, without an answer. */
import { joinArrays } from "../../shared/bytes.ts";
import type { Kv, KvStore } from "../kv/runner.ts";
import { writeKey } from "../memory/keys.ts";

/** `from` has, for each prompt, the index of the first token whose hidden state is wanted. */
export type Traced = { kind: "keys" } | { kind: "hidden"; from: readonly number[] };

/** Hidden states [N, D], or for `keys` a key for each of the n tokens of a prompt, [n, D]. */
export type TracedValues = Float32Array<ArrayBuffer> | Int8Array<ArrayBuffer>;

export interface Trace {
  readonly kind: Traced["kind"];
  readonly from: number;
  /** Hidden states without any adapter. Each pass appends some. */
  readonly hidden: Float32Array<ArrayBuffer>[];
  /** Used for the kind `keys`: [D] for each token. */
  keys: Int8Array<ArrayBuffer>;
  take(values: TracedValues): void;
}

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
