/** The methods that evaluation compares: each decides from the prompt alone how the engine serves a text. Pure. */
import type { MixtureRequest } from "../../../shared/contracts/inference.ts";
import {
  type CentroidVectors,
  type EdgeTable,
  promptEmbedding,
  type RankedCentroid,
  rankCentroids,
} from "../../../shared/math/assignment.ts";
import { type EvidenceCalibration, type NearCentroid, priorsOf } from "../../../shared/math/evidence.ts";
import { Random } from "../../training/random.ts";

/** How a text is served: an adapter's id (null: the base), or a mixture of several. */
export interface Plan {
  adapterId: string | null;
  mixture?: MixtureRequest;
}

/** What methods read of the artifacts. */
export interface Placement {
  table: EdgeTable;
  centroids: CentroidVectors;
  /** Of the centroids, in order. */
  ids: readonly string[];
  /** Of the centroids, in order: whether its adapter is off. */
  isOff: readonly boolean[];
  /** Prompt tokens that assign. */
  prefixTokens: number;
  calibration: EvidenceCalibration;
}

/** `index` is the text's position among those scored together; it seeds random choices. */
export type Planner = (prompt: Prompt, index: number) => Plan;

/** What requests can ask for: the base, `"nearest"` and `"auto"`. */
export const mainMethods: Record<"base" | "nearest" | "mixture", Planner> = {
  base: () => ({ adapterId: null }),
  nearest: (prompt) => ({ adapterId: prompt.nearest[0].id }),
  mixture: (prompt) => prompt.plan(prompt.nearest),
};

/** The mixture with one part changed, to show what that part contributes. */
export const controls: Record<string, Planner> = {
  "equal weights": (prompt) => prompt.equalWeights(),
  "random centroids": (prompt, index) => prompt.plan(prompt.others(new Random(1, index))),
};

/** The plan of a static head: the single adapter of its artifacts, weighed against the base as the nearest adapters are. */
export function staticHeadPlan(tokens: number, adapterId: string, { base, temper, floor }: EvidenceCalibration): Plan {
  const adapters = [{ centroidId: adapterId, weight: 1 - base }];
  return { adapterId, mixture: { base, adapters, evidence: { tokens, temper, floor } } };
}

interface PlacedCentroid extends NearCentroid {
  id: string;
}

/** A prompt with its nearest centroids. Makes the plans of the methods. */
export class Prompt {
  /** The nearest centroids, nearest first; the adapters of those that are on become experts. */
  readonly nearest: readonly PlacedCentroid[];
  readonly tokens: number;
  readonly #calibration: EvidenceCalibration;
  readonly #ranked: readonly PlacedCentroid[];

  constructor(ids: readonly number[], { table, centroids, ids: names, isOff, prefixTokens, calibration }: Placement) {
    const embedding = promptEmbedding(ids.slice(0, prefixTokens), table);
    const ranked: RankedCentroid[] = rankCentroids(embedding, centroids);
    this.#ranked = ranked.map(({ index, similarity }) => ({ id: names[index], similarity, isOff: isOff[index] }));
    this.nearest = this.#ranked.slice(0, calibration.adapters);
    this.tokens = ids.length;
    this.#calibration = calibration;
  }

  /** Mixture of the base and these centroids' adapters. */
  plan(near: readonly PlacedCentroid[]): Plan {
    const { temper, floor } = this.#calibration;
    const { base, adapters: priors } = priorsOf(near, false, this.#calibration);
    const adapters = on(near).map(({ id }, i) => ({ centroidId: id, weight: priors[i] }));
    const mixture = { base, adapters, evidence: { tokens: this.tokens, temper, floor } };
    return { adapterId: adapters[0]?.centroidId ?? null, mixture };
  }

  /** All experts have the same weight. The prompt only decides which centroids are near. */
  equalWeights(): Plan {
    const experts = on(this.nearest);
    const weight = 1 / (experts.length + 1);
    const adapters = experts.map(({ id }) => ({ centroidId: id, weight }));
    return { adapterId: experts[0]?.id ?? null, mixture: { base: weight, adapters } };
  }

  /** As many centroids as become experts, drawn from the others, with the similarities of the nearest. */
  others(random: Random): PlacedCentroid[] {
    const drawn = random.shuffled(this.#ranked.slice(this.nearest.length)).slice(0, this.nearest.length);
    return drawn.map(({ id, isOff }, i) => ({ id, isOff, similarity: this.nearest[i].similarity }));
  }
}

function on(near: readonly PlacedCentroid[]): PlacedCentroid[] {
  return near.filter(({ isOff }) => !isOff);
}
