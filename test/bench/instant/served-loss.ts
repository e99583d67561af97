/** What an adapter, as it is served, gains on a text: by the serving formula, over the head alone. */
import type { InstantParts } from "../../../gpu-backend/adapters/instant/artifact.ts";
import type { Example } from "../../../gpu-backend/adapters/instant/fit.ts";
import type { HeadSession } from "../../../gpu-backend/runtime/head-probabilities.ts";
import type { TrunkRunner } from "../../../gpu-backend/runtime/trunk-runner.ts";

/** A text after the trunk: hidden states of all positions but the last, and what follows each. */
export async function traced(trunk: TrunkRunner, ids: readonly number[]): Promise<Example> {
  const hidden = await trunk.hidden(Int32Array.from(ids), 1, ids.length);
  const N = ids.length - 1;
  return { hidden: hidden.slice(0, (hidden.length / ids.length) * N), targets: Int32Array.from(ids.slice(1)) };
}

/** Nats that `parts` gain over the base on each of a text's tokens, [N]. */
export async function gainsOf(
  session: HeadSession,
  text: Example,
  { gates, bias, directions }: InstantParts,
  gateCount: number,
): Promise<Float64Array> {
  const { hidden, targets } = text;
  const N = targets.length;
  const D = hidden.length / N;
  const zeros = new Float32Array(gateCount);
  const base = await session.run({ hidden, targets, gates: zeros, chosen: Int32Array.of(0) });
  const bent = [...(directions?.b.keys() ?? [])].filter((id) => directions!.b[id] !== 0);
  const chosen = Int32Array.from(new Set([...(bias?.ids ?? []), ...bent, 0])).sort();
  const M = chosen.length;
  const gated = await session.run({ hidden, targets, gates: gates ?? zeros, chosen });
  const added = new Map([...(bias?.ids ?? [])].map((id, i) => [id, bias!.values[i]]));
  const deltaOf = (id: number, u: number) => (added.get(id) ?? 0) + (directions ? u * directions.b[id] : 0);
  return Float64Array.from({ length: N }, (_, n) => {
    let u = 0;
    if (directions) for (let d = 0; d < D; d++) u += directions.a[d] * hidden[n * D + d];
    let mass = 0;
    for (let m = 0; m < M; m++) mass += gated.probabilities[n * M + m] * Math.expm1(deltaOf(chosen[m], u));
    return gated.logprobs[n] + deltaOf(targets[n], u) - Math.log1p(mass) - base.logprobs[n];
  });
}
