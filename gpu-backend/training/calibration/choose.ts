/**
 * Chooses how mixtures are made for prompts of every length, by what they would have gained on trials. Pure: the gain of a
 * mixture is arithmetic over the experts' probabilities, with the very functions that weigh them when they are served.
 * Least harm comes first: text must lose next to nothing, whatever other text gains.
 */
import {
  defaultCalibration,
  type EvidenceCalibration,
  type MixtureWeights,
  priorsOf,
  ruleFor,
  weigh,
  withFloor,
} from "../../../shared/math/evidence.ts";
import type { Trial } from "./trials.ts";

/** A trial of a group: a corpus that the bank was trained on, or one that it was trained without. */
export interface GroupedTrial extends Trial {
  group: string;
  family: string;
}

/** What is tried, the safest first: all combinations for each prompt length, and one floor for all of them. */
const grid = {
  base: [0.95, 0.9, 0.8, 0.7, 0.5, 0.3],
  noPointer: [0.95, 0.85, 0.7, 0.5],
  temper: [0.05, 0.1, 0.2, 0.3, 0.5],
  floor: [0.3, 0.2, 0.1, 0.05, 0.02],
} as const;
const candidates = grid.base.flatMap((base) =>
  grid.noPointer.flatMap((noPointer) => grid.temper.map((temper) => ({ base, noPointer, temper }))),
);
/** The floor is put on afterwards, so that each candidate is weighed once. */
const withoutFloor = candidates.map((candidate) => ({
  ...defaultCalibration,
  floor: 0,
  byLength: [{ promptTokens: 0, ...candidate }],
}));

/** Nats a token that a group may lose. */
const toleratedLoss = 0.005;
/** Share of the texts that are the worst ones, and nats a token that they may lose on average. */
const worstShare = 0.05;
const toleratedWorstLoss = 0.1;
/** Nats a token that a choice must gain to be preferred to a safer one: less is noise as often as gain. */
const requiredGain = 0.001;

/** Gains of a prompt length's trials under every floor and candidate, in nats a token. */
export interface Measured {
  promptTokens: number;
  trials: { group: string; family: string; tokens: number }[];
  /** [floors][candidates][trials] */
  gains: Float32Array[][];
}

/** Measures the whole grid on trials of one prompt length. */
export function measureGrid(promptTokens: number, trials: readonly GroupedTrial[]): Measured {
  const gains = grid.floor.map(() => candidates.map(() => new Float32Array(trials.length)));
  for (const [t, trial] of trials.entries()) {
    const tokens = trial.continuation.length;
    for (const [c, calibration] of withoutFloor.entries()) {
      const weights = weightsOf(trial, calibration);
      for (const [f, floor] of grid.floor.entries()) gains[f][c][t] = gainOf(trial, withFloor(weights, floor)) / tokens;
    }
  }
  const about = trials.map(({ group, family, continuation }) => ({ group, family, tokens: continuation.length }));
  return { promptTokens, trials: about, gains };
}

/** Weights of a trial's experts, as its prompt would be served under a calibration. */
export function weightsOf(trial: Trial, calibration: EvidenceCalibration): MixtureWeights {
  const { basePrior, ...rule } = ruleFor(calibration, trial.promptTokens);
  const priors = [basePrior, ...priorsOf(trial.similarities, 1 - basePrior, calibration)];
  return weigh(priors, rule, trial.evidence).weights;
}

/** Nats that a mixture gains over the base on the tokens after the prompt. */
export function gainOf({ continuation }: Trial, { base, adapters, pointer }: MixtureWeights): number {
  let nats = 0;
  for (const { experts, pointer: copied } of continuation) {
    let mixed = base * experts[0] + pointer * copied;
    for (let j = 0; j < adapters.length; j++) mixed += adapters[j] * experts[j + 1];
    nats += Math.log(mixed / experts[0]);
  }
  return nats;
}

/** Nats a token that a choice loses beyond what is tolerated, and that it gains on average over the groups. */
interface Score {
  harm: number;
  gain: number;
}

/** The places of what was chosen in the grid. */
export interface Choice {
  floor: number;
  /** Of each measured length. */
  candidates: number[];
}

/**
 * The safest choice of those with the least harm that gain about as much as any: for each floor of the candidates of each
 * length, then of the floors.
 * @param keep families whose trials count
 */
export function choose(measured: readonly Measured[], keep: (family: string) => boolean = () => true): Choice {
  const byFloor = grid.floor.map((_, floor) => {
    const best = measured.map((one) =>
      safest(candidates.map((_, index) => ({ index, ...scoreOf(one, one.gains[floor][index], keep) }))),
    );
    return {
      choice: { floor, candidates: best.map(({ index }) => index) },
      harm: Math.max(0, ...best.map(({ harm }) => harm)),
      gain: meanOf(best.map(({ gain }) => gain)),
    };
  });
  return safest(byFloor).choice;
}

/** @param scores the safest first */
function safest<T extends Score>(scores: readonly T[]): T {
  const leastHarm = Math.min(...scores.map(({ harm }) => harm));
  const harmless = scores.filter(({ harm }) => harm === leastHarm);
  const mostGain = Math.max(...harmless.map(({ gain }) => gain));
  return harmless.find(({ gain }) => gain >= mostGain - requiredGain)!;
}

/** What a manifest brings: a row for each measured length, which holds from that length on. */
export function calibrationOf(measured: readonly Measured[], choice: Choice) {
  const { adapters, similarityScale, sharpness, shares } = defaultCalibration;
  return {
    ...{ adapters, similarityScale, sharpness, shares: [...shares] },
    floor: grid.floor[choice.floor],
    byLength: measured.map(({ promptTokens }, l) => ({ promptTokens, ...candidates[choice.candidates[l]] })),
  } satisfies EvidenceCalibration;
}

function scoreOf({ trials }: Measured, gains: Float32Array, keep: (family: string) => boolean): Score {
  const groups = new Map<string, { nats: number; tokens: number }>();
  const texts: number[] = [];
  for (const [t, { group, family, tokens }] of trials.entries()) {
    if (!keep(family)) continue;
    const sum = groups.get(group) ?? { nats: 0, tokens: 0 };
    groups.set(group, sum);
    sum.nats += gains[t] * tokens;
    sum.tokens += tokens;
    texts.push(gains[t]);
  }
  const means = [...groups.values()].map(({ nats, tokens }) => nats / tokens);
  const worst = texts.sort((a, b) => a - b).slice(0, Math.ceil(worstShare * texts.length));
  const harm = Math.max(0, -Math.min(...means) - toleratedLoss, -meanOf(worst) - toleratedWorstLoss);
  return { harm, gain: meanOf(means) };
}

function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
