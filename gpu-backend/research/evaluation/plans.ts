/** How the prompt of a text decides what answers it, as the edge plans it and the engine weighs it. Pure. */
import { isAutoOff } from "../../../shared/artifacts/manifest.ts";
import { promptEmbedding, rankCentroids } from "../../../shared/math/assignment.ts";
import { defaultCalibration, type EvidenceCalibration, priorsOf, weigh } from "../../../shared/math/evidence.ts";
import { gatesAt } from "../../training/bank/measure.ts";
import type { ServedBank } from "../../training/bank/served-bank.ts";

/** Experts of a prompt; the first is the base. */
export interface Experts {
  /** Gates of each expert, [E][Q]. */
  gates: Float32Array[];
  /** Adding up to 1, [E]. */
  priors: number[];
  /** Gates of the nearest centroid's adapter. */
  nearest: Float32Array;
  /** The rule that weighs them. */
  calibration: EvidenceCalibration;
}

/** The base, the static adapter, and the nearest centroids' adapters that are on. */
export function expertsOf(promptIds: readonly number[], { manifest, table, adapters, scales }: ServedBank): Experts {
  const calibration = manifest.evidence ?? defaultCalibration;
  const { staticGates } = adapters.network;
  const embedding = promptEmbedding(promptIds.slice(0, manifest.embedding.prefixTokens), table);
  const near = rankCentroids(embedding, adapters.centroids)
    .slice(0, calibration.adapters)
    .map(({ index, similarity }) => ({
      similarity,
      isOff: isAutoOff(manifest.centroids[index]),
      gates: gatesAt(adapters, index, scales[index]),
    }));
  const priors = priorsOf(near, true, calibration);
  const on = near.filter(({ isOff }) => !isOff);
  return {
    gates: [new Float32Array(staticGates.length), staticGates, ...on.map(({ gates }) => gates)],
    priors: [priors.base, priors.fixed, ...priors.adapters],
    nearest: near[0].gates,
    calibration,
  };
}

/** The mixture's gates, [Q]. `logprobs` [tokens][E]: of the prompt's tokens that are evidence. */
export function mixedGates(
  { gates, priors, calibration }: Experts,
  logprobs: readonly (readonly number[])[],
): Float32Array {
  const { base, adapters } = weigh(priors, calibration, logprobs).weights;
  const weights = [base, ...adapters];
  return gates[0].map((_, q) => gates.reduce((sum, own, e) => sum + weights[e] * own[q], 0));
}
