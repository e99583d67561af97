/**
 * What the answer to one prompt is a mixture of: which experts, with which priors or weights, and which of the prompt's
 * tokens weigh them. Pure. Not here: which centroids are near (assign.ts), and weighing itself, which is the backend's.
 */
import type { CentroidRecord } from "../../shared/artifacts/manifest.ts";
import type { MixtureRequest } from "../../shared/contracts/inference.ts";
import {
  defaultCalibration,
  type EvidenceCalibration,
  marginOf,
  priorsOf,
  ruleFor,
  type Span,
} from "../../shared/math/evidence.ts";

/** An adapter that may become an expert. */
export interface Candidate {
  id: string;
  /** Of a tenant's own adapter; null for a centroid's. */
  ownHash: string | null;
  /** Cosine of prompt embedding and centroid. */
  similarity: number;
  /** What it gained on held-out text. */
  gain: CentroidRecord["gain"];
  /** Auto-off: it did not gain where it was measured, so it counts as the base. */
  isOff: boolean;
}

/** An entry of a list of experts as a request has it. */
export interface Listed {
  /** null: the base. */
  candidate: Candidate | null;
  /** null: weighed by evidence. All entries of a list are alike in this. */
  weight: number | null;
}

/** Which tokens of a prompt decide. */
export interface EvidenceTokens {
  /** The first so many. */
  tokens: number;
  /** Of a chat, what its messages say within those; the template's own text is no evidence. */
  spans?: Span[];
}

export interface PlannedMixture {
  mode: "evidence" | "fixed";
  /** In the order of the mixture's adapters. The micro-batch, routing and usage go by the first. */
  experts: Candidate[];
  request: MixtureRequest;
}

/** What is read of a manifest. */
interface Calibrated {
  evidence?: EvidenceCalibration | undefined;
}

/** The base, the nearest centroids' adapters, and the pointer. `nearest`: all centroids, nearest first. */
export function automaticMixture(
  nearest: readonly Candidate[],
  { evidence: calibration = defaultCalibration }: Calibrated,
  evidence: EvidenceTokens,
): PlannedMixture {
  const near = nearest.slice(0, calibration.adapters);
  const experts = near.filter(({ isOff }) => !isOff);
  const { basePrior, ...rule } = ruleFor(calibration, evidenceCount(evidence), marginOf(nearest));
  const [base, ...priors] = priorsOf(near, basePrior, calibration);
  const request = { base, adapters: weighted(experts, priors), evidence: { ...rule, ...evidence } };
  return { mode: "evidence", experts, request };
}

/**
 * The experts that a request lists. With weights they are served as given, scaled to add up to 1, without a pointer.
 * Without, they are weighed by evidence: the listed base has its calibrated prior, whatever the prompt's margin, and the
 * adapters share the rest equally.
 */
export function listedMixture(
  listed: readonly Listed[],
  { evidence: calibration = defaultCalibration }: Calibrated,
  evidence: EvidenceTokens,
): PlannedMixture {
  const { basePrior, ...rule } = ruleFor(calibration, evidenceCount(evidence), null);
  const isFixed = listed[0].weight !== null;
  const adapters = listed.filter(({ candidate }) => candidate !== null).length;
  const ofBase = adapters === listed.length ? 0 : adapters === 0 ? 1 : basePrior;
  const sum = listed.reduce((total, { weight }) => total + (weight ?? 0), 0);
  const weightOf = ({ candidate, weight }: Listed) =>
    weight !== null ? weight / sum : candidate === null ? ofBase : (1 - ofBase) / adapters;
  const on = listed.filter(({ candidate }) => candidate !== null && !candidate.isOff).sort(byRank);
  const experts = on.map(({ candidate }) => candidate!);
  const weights = on.map(weightOf);
  const others = listed.filter((one) => !on.includes(one)).reduce((total, one) => total + weightOf(one), 0);
  return {
    mode: isFixed ? "fixed" : "evidence",
    experts,
    request: {
      base: Math.min(1, others),
      adapters: weighted(experts, weights),
      ...(!isFixed && { evidence: { ...rule, ...evidence } }),
    },
  };
}

/** How many tokens are evidence: the calibration's rows go by it. */
export function evidenceCount({ tokens, spans = [[0, tokens]] }: EvidenceTokens): number {
  return spans.reduce((sum, [start, end]) => sum + Math.max(0, Math.min(end, tokens) - start), 0);
}

function weighted(experts: readonly Candidate[], weights: readonly number[]): MixtureRequest["adapters"] {
  return experts.map(({ id, ownHash }, i) =>
    ownHash === null ? { centroidId: id, weight: weights[i] } : { adapterHash: ownHash, weight: weights[i] },
  );
}

/** A tenant's own before centroids, so that no other tenant shares its micro-batch; then the nearest first. */
function byRank({ candidate: a }: Listed, { candidate: b }: Listed): number {
  const own = Number(b!.ownHash !== null) - Number(a!.ownHash !== null);
  return own || b!.similarity - a!.similarity;
}
