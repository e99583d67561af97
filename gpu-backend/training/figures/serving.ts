/**
 * What is compared: the base, what `"nearest"` serves, the mixture that is served, and controls that each lack or change one
 * part of it. A method says how a text is served, from its prompt alone. Pure.
 */
import type { MixtureRequest } from "../../../shared/contracts/inference.ts";
import {
  type CentroidVectors,
  type EdgeTable,
  promptEmbedding,
  type RankedCentroid,
  rankCentroids,
} from "../../../shared/math/assignment.ts";
import {
  type EvidenceCalibration,
  type EvidenceRule,
  marginOf,
  type NearCentroid,
  priorsOf,
  ruleFor,
} from "../../../shared/math/evidence.ts";
import { Random } from "../random.ts";

/** How a text is served: an adapter's id (null: the base), or a mixture of several. */
export interface Plan {
  adapterId: string | null;
  mixture?: MixtureRequest;
}

/** What methods know of the artifacts. */
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

export const base = "base";
export const nearest = "nearest";
export const mixture = "mixture";
/** Needs hidden states rather than a plan. */
export const temperature = "base with a fitted temperature";
/** Needs artifacts of its own. */
export const staticHead = "static head and evidence";

type Planner = (prompt: Prompt, index: number) => Plan;

/** The methods that are served from the artifacts, by name. The first three are measured at every prompt length. */
export const planners: Record<string, Planner> = {
  [base]: () => ({ adapterId: null }),
  [nearest]: (prompt) => ({ adapterId: prompt.nearest[0].id }),
  [mixture]: (prompt) => prompt.plan(prompt.nearest),
  "mixture without pointer": (prompt) => prompt.plan(prompt.nearest, { noPointer: 1 }),
  "base and pointer": (prompt) => prompt.plan([]),
  // The pointer's softmax is flat: it copies what the prompt has, as often as it has it.
  "pointer with θ = 0": (prompt) => prompt.plan(prompt.nearest, { sharpness: 0 }),
  "equal weights": (prompt) => prompt.equalWeights(),
  "random centroids": (prompt, index) => prompt.plan(prompt.others(new Random(1, index))),
  "plain Bayes, η = 1": (prompt) => prompt.plan(prompt.nearest, { temper: 1 }),
};

export const mainMethods: readonly string[] = [base, nearest, mixture];
export const controls = Object.keys(planners).filter((name) => !mainMethods.includes(name));

/**
 * The plan of a static head: the one adapter of its artifacts, weighed beside base and pointer as the nearest are. It has no
 * centroids and so no margin: the base has the prior of a typical prompt.
 */
export function staticHeadPlan(promptTokens: number, adapterId: string, calibration: EvidenceCalibration): Plan {
  const { basePrior, ...evidence } = ruleFor(calibration, promptTokens, null);
  const adapters = [{ centroidId: adapterId, weight: 1 - basePrior }];
  return { adapterId, mixture: { base: basePrior, adapters, evidence: requested(evidence) } };
}

interface PlacedCentroid extends NearCentroid {
  id: string;
}

/** The centroids that a prompt is nearest to, and the plans that follow. */
export class Prompt {
  /** The nearest centroids, nearest first; the adapters of those that are on become experts. */
  readonly nearest: readonly PlacedCentroid[];
  readonly #tokens: number;
  readonly #calibration: EvidenceCalibration;
  readonly #ranked: readonly PlacedCentroid[];

  constructor(ids: readonly number[], { table, centroids, ids: names, isOff, prefixTokens, calibration }: Placement) {
    const embedding = promptEmbedding(ids.slice(0, prefixTokens), table);
    const ranked: RankedCentroid[] = rankCentroids(embedding, centroids);
    this.#ranked = ranked.map(({ index, similarity }) => ({ id: names[index], similarity, isOff: isOff[index] }));
    this.nearest = this.#ranked.slice(0, calibration.adapters);
    this.#tokens = ids.length;
    this.#calibration = calibration;
  }

  /** Mixture of the base, these centroids' adapters and the pointer; `changes` to the calibration at this length. */
  plan(
    near: readonly PlacedCentroid[],
    changes: { noPointer?: number; temper?: number; sharpness?: number; typical?: undefined } = {},
  ): Plan {
    const calibration = this.#calibration;
    const byLength = calibration.byLength.map((row) => ({ ...row, ...changes }));
    const sharpness = changes.sharpness ?? calibration.sharpness;
    const { basePrior, ...evidence } = ruleFor(
      { ...calibration, byLength, sharpness },
      this.#tokens,
      marginOf(this.#ranked),
    );
    const [base, ...priors] = priorsOf(near, basePrior, calibration);
    const adapters = on(near).map(({ id }, i) => ({ centroidId: id, weight: priors[i] }));
    const mixture = { base, adapters, evidence: requested(evidence) };
    return { adapterId: adapters[0]?.centroidId ?? null, mixture };
  }

  /** The prompt decides nothing but which centroids are near: experts weigh alike, and so do the pointer's shares. */
  equalWeights(): Plan {
    const { adapterId, mixture: planned } = this.plan(this.nearest, { temper: 0, typical: undefined });
    const weight = 1 / (planned!.adapters.length + 1);
    const { pointer, ...evidence } = planned!.evidence!;
    const shares = pointer.shares.map(({ share }) => ({ share, prior: 1 / pointer.shares.length }));
    return {
      adapterId,
      mixture: {
        base: weight,
        adapters: on(this.nearest).map(({ id }) => ({ centroidId: id, weight })),
        evidence: { ...evidence, pointer: { ...pointer, shares } },
      },
    };
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

/** The rule as a request states it. */
function requested({ pointer, ...rule }: EvidenceRule): NonNullable<MixtureRequest["evidence"]> {
  return { ...rule, pointer: { ...pointer, shares: [...pointer.shares] } };
}
