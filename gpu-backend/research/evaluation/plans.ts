/** How the prompt of a text decides what answers it, as the edge plans it and the engine weighs it. Pure. */
import { isAutoOff } from "../../../shared/artifacts/manifest.ts";
import {
  type CentroidVectors,
  type EdgeTable,
  promptEmbedding,
  rankCentroids,
} from "../../../shared/math/assignment.ts";
import { defaultCalibration, type EvidenceCalibration, priorsOf, weigh } from "../../../shared/math/evidence.ts";
import { gatesAt } from "../../training/bank/measure.ts";
import type { ServedBank } from "../../training/bank/served-bank.ts";

/** What plans read of the artifacts. */
export interface Placement {
  table: EdgeTable;
  centroids: CentroidVectors;
  /** Gates of each centroid's adapter as it is served, [K][Q]. */
  gates: readonly Float32Array[];
  /** Of the static adapter, [Q]. */
  staticGates: Float32Array;
  /** Whether a centroid serves the static adapter alone, [K]. */
  isOff: readonly boolean[];
  /** Prompt tokens that assign. */
  prefixTokens: number;
  calibration: EvidenceCalibration;
}

/** Of artifacts as they are served. */
export function placementOf({ manifest, table, adapters, scales }: ServedBank): Placement {
  return {
    ...{ table, centroids: adapters.centroids, staticGates: adapters.network.staticGates },
    gates: Array.from(scales, (scale, k) => gatesAt(adapters, k, scale)),
    isOff: manifest.centroids.map(isAutoOff),
    prefixTokens: manifest.embedding.prefixTokens,
    calibration: manifest.evidence ?? defaultCalibration,
  };
}

/** Experts of a prompt; the first is the base. */
export interface Experts {
  /** Gates of each expert, [E][Q]. */
  gates: Float32Array[];
  /** Adding up to 1, [E]. */
  priors: number[];
  /** Gates of the nearest centroid's adapter. */
  nearest: Float32Array;
}

/** The base, the static adapter, and the nearest centroids' adapters that are on. */
export function expertsOf(promptIds: readonly number[], placement: Placement): Experts {
  const { table, centroids, gates, staticGates, isOff, prefixTokens, calibration } = placement;
  const embedding = promptEmbedding(promptIds.slice(0, prefixTokens), table);
  const near = rankCentroids(embedding, centroids).slice(0, calibration.adapters);
  const on = near.filter(({ index }) => !isOff[index]);
  const ranked = near.map(({ index, similarity }) => ({ similarity, isOff: isOff[index] }));
  const { base, fixed, adapters } = priorsOf(ranked, true, calibration);
  return {
    gates: [new Float32Array(staticGates.length), staticGates, ...on.map(({ index }) => gates[index])],
    priors: [base, fixed, ...adapters],
    nearest: gates[near[0].index],
  };
}

/** The mixture's gates, [Q]. `logprobs` [tokens][E]: of the prompt's tokens that are evidence. */
export function mixedGates(
  { gates, priors }: Experts,
  logprobs: readonly (readonly number[])[],
  calibration: EvidenceCalibration,
): Float32Array {
  const { base, adapters } = weigh(priors, calibration, logprobs).weights;
  const weights = [base, ...adapters];
  return gates[0].map((_, q) => gates.reduce((sum, own, e) => sum + weights[e] * own[q], 0));
}
