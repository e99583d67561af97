/** How the prompt of a text decides what answers it, as the edge plans it and the engine weighs it. Pure. */
import { isAutoOff } from "../../../shared/artifacts/manifest.ts";
import { limits } from "../../../shared/contracts/limits.ts";
import { promptEmbedding, rankCentroids } from "../../../shared/math/assignment.ts";
import { defaultCalibration, type EvidenceCalibration, priorsOf, weigh } from "../../../shared/math/evidence.ts";
import { changeOf } from "../../adapters/own/fit.ts";
import type { Delta } from "../../runtime/fit-session.ts";
import { gatesAt } from "../../training/bank/measure.ts";
import type { ServedBank } from "../../training/bank/served-bank.ts";

/** An adapter of a tenant's own, and the mean prompt embedding of its text. */
export interface OwnAdapter {
  delta: Delta;
  centroid: Float32Array;
}

/** A change of hidden states: generated adapters by their gates, [Q], and a share of an own adapter's. */
export interface Mixed {
  gates: Float32Array;
  own: number;
}

/** Experts of a prompt; the first is the base. */
export interface Experts {
  all: Mixed[];
  /** Adding up to 1, [E]. */
  priors: number[];
  /** Gates of the nearest centroid's adapter. */
  nearest: Float32Array;
  /** The rule that weighs them. */
  calibration: EvidenceCalibration;
}

/** The base, the static adapter, the tenant's own, and the nearest centroids' adapters that are on. */
export function expertsOf(
  promptIds: readonly number[],
  { manifest, table, adapters, scales }: ServedBank,
  own: OwnAdapter | null = null,
): Experts {
  const calibration = manifest.evidence ?? defaultCalibration;
  const { staticGates } = adapters.network;
  const embedding = promptEmbedding(promptIds.slice(0, manifest.embedding.prefixTokens), table);
  const near = rankCentroids(embedding, adapters.centroids)
    .slice(0, own ? Math.min(calibration.adapters, limits.mixtureAdapters - 2) : calibration.adapters)
    .map(({ index, similarity }) => ({
      similarity,
      isOff: isAutoOff(manifest.centroids[index]),
      ...{ gates: gatesAt(adapters, index, scales[index]), own: 0, ownHash: null as string | null },
    }));
  const nearest = near[0].gates;
  if (own) {
    const similarity = embedding.reduce((sum, value, p) => sum + value * own.centroid[p], 0);
    near.unshift({ similarity, isOff: false, gates: staticGates, own: 1, ownHash: "own" });
  }
  const priors = priorsOf(near, true, calibration);
  return {
    all: [
      { gates: new Float32Array(staticGates.length), own: 0 },
      { gates: staticGates, own: 0 },
      ...near.filter(({ isOff }) => !isOff),
    ],
    priors: [priors.base, priors.fixed, ...priors.adapters],
    ...{ nearest, calibration },
  };
}

/** The mixture. `logprobs` [tokens][E]: of the prompt's tokens that are evidence. */
export function mixed({ all, priors, calibration }: Experts, logprobs: readonly (readonly number[])[]): Mixed {
  const { base, adapters } = weigh(priors, calibration, logprobs).weights;
  const weights = [base, ...adapters];
  return {
    gates: all[0].gates.map((_, q) => all.reduce((sum, { gates }, e) => sum + weights[e] * gates[q], 0)),
    own: all.reduce((sum, { own: share }, e) => sum + weights[e] * share, 0),
  };
}

/** What a share of an own adapter changes in each of the states [N, D]. */
export function ownChange(share: number, own: OwnAdapter | null, states: Float32Array): Float32Array {
  return own && share > 0 ? changeOf(own.delta, states).map((x) => x * share) : new Float32Array(states.length);
}
