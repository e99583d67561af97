/**
 * Chooses how mixtures are made for prompts of every length, by what they would have gained on trials. Pure: the gain of a
 * mixture is arithmetic over the experts' probabilities, with the very functions that weigh them when they are served.
 * Least harm comes first: no text may lose more than is tolerated, whatever other text gains.
 */
import {
  calibratedMarginScale,
  calibratedPointer,
  defaultCalibration,
  type EvidenceCalibration,
  type MixtureWeights,
  marginOf,
  mixedProbability,
  pointerOdds,
  priorsOf,
  ruleFor,
  surprisalOf,
  weigh,
  withFloor,
} from "../../../shared/math/evidence.ts";
import { prefixTokens } from "../corpus/windows.ts";
import type { Trial } from "./trials.ts";

/** A trial of a group: a corpus that the bank was trained on, or one that it was trained without. */
export interface GroupedTrial extends Trial {
  group: string;
  family: string;
  /** The bank is the one that is served; it only says how far known text is behind the nearest adapter. */
  isServed: boolean;
}

/**
 * What is tried for each prompt length: all combinations. A floor f costs text with a good adapter up to −log(1 − f) nats a token; where
 * the calibration's own text has none that good, only this bound on f says so.
 */
const grid = {
  base: [0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.5, 0.3],
  noPointer: [0.95, 0.9, 0.85, 0.7, 0.5, 0.3],
  temper: [0.05, 0.1, 0.2, 0.3, 0.5, 0.7],
  floor: [0.1, 0.05, 0.02],
} as const;
const candidates = grid.base.flatMap((base) =>
  grid.noPointer.flatMap((noPointer) => grid.temper.map((temper) => ({ base, noPointer, temper }))),
);
type Row = EvidenceCalibration["byLength"][number];

/** A group may lose this much to the base, in nats a token: what users are promised of any kind of text. */
const toleratedLoss = 0.01;
/** The worst texts, which are this share of them, may lose this much on average, in nats a token: of all groups, and of one. */
const worstShare = 0.05;
const toleratedWorstLoss = { ofAll: 0.1, ofGroup: 0.2 };
/**
 * Under the bank that is served known text may be this much behind the nearest adapter alone, in nats a token: its mean less
 * one standard error over documents, as a mean of few documents proves nothing. The mean of all groups after prompts of any
 * length, each group where the prompt is as long as the prefix that training assigns text by, so that it says which adapter helps.
 */
const toleratedBehindNearest = { ofAll: 0, ofGroup: 0.02 };
/**
 * A safer choice, which stays further from the nearest of these limits, is preferred if it gains at most this much less, in nats a
 * token: smaller differences are noise.
 */
const worthOfSafety = 0.01;
/** Where no choice is harmless, harm that differs by at most this counts as the same, in nats a token: that, too, is noise. */
const sameHarm = 0.001;
/**
 * The same for a higher floor. It costs the groups with the best adapters about ten times its mean cost, and more under the
 * bank that is served, which gains more than those that are trained for calibration.
 */
const worthOfFloor = 0.001;

/** What naming the nearest centroid serves: its adapter, or the base where that is off. */
export function nearestAlone({ nearest: [{ isOff }] }: Pick<Trial, "nearest">): MixtureWeights {
  return isOff ? { base: 1, adapters: [], pointer: 0 } : { base: 0, adapters: [1], pointer: 0 };
}

/** Gains of a prompt length's trials under every floor and candidate, in nats a token. */
export interface Measured {
  promptTokens: number;
  typical: NonNullable<Row["typical"]>;
  trials: (Pick<GroupedTrial, "group" | "family" | "isServed" | "document"> & { tokens: number })[];
  /** [trials] */
  nearest: Float32Array;
  /** [floors][candidates][trials] */
  gains: Float32Array[][];
}

/** Measures the whole grid on trials of one prompt length. */
export function measureGrid(promptTokens: number, trials: readonly GroupedTrial[]): Measured {
  const gains = grid.floor.map(() => candidates.map(() => new Float32Array(trials.length)));
  const typical = typicalOf(trials.filter(({ isServed }) => !isServed));
  // The floor is put on afterwards, so that each candidate is weighed once.
  const withoutFloor = candidates.map((candidate) =>
    calibrationWith([{ promptTokens: 0, ...candidate, floor: 0, typical }]),
  );
  for (const [t, trial] of trials.entries()) {
    const tokens = trial.continuation.length;
    for (const [c, calibration] of withoutFloor.entries()) {
      const weights = weightsOf(trial, calibration);
      for (const [f, floor] of grid.floor.entries()) gains[f][c][t] = gainOf(trial, withFloor(weights, floor)) / tokens;
    }
  }
  return {
    promptTokens,
    typical,
    trials: trials.map(({ group, family, isServed, document, continuation }) => {
      return { group, family, isServed, document, tokens: continuation.length };
    }),
    nearest: Float32Array.from(trials, (trial) => gainOf(trial, nearestAlone(trial)) / trial.continuation.length),
    gains,
  };
}

/**
 * Means over groups of the trials' margins (cosine) and of their evidence's surprisal under the base (nats a token), rounded to
 * .001. Of all groups, also where a choice leaves a family out.
 */
function typicalOf(trials: readonly GroupedTrial[]): Measured["typical"] {
  const groups = [...Map.groupBy(trials, ({ group }) => group).values()];
  const mean = (of: (trial: GroupedTrial) => number) =>
    Number(meanOf(groups.map((group) => meanOf(group.map(of)))).toFixed(3));
  return {
    margin: mean(({ nearest }) => marginOf(nearest) ?? 0),
    surprisal: mean(({ evidence }) => meanOf(evidence.map(({ experts }) => surprisalOf(experts[0])))),
  };
}

function calibrationWith(byLength: (Row & { floor: number })[]) {
  const { adapters, similarityScale } = defaultCalibration;
  const { sharpness, sentinel, shares } = calibratedPointer;
  const pointer = { sharpness, sentinel, shares: [...shares] };
  return {
    adapters,
    similarityScale,
    marginScale: calibratedMarginScale,
    ...pointer,
    floor: Math.min(...byLength.map((row) => row.floor)),
    byLength,
  };
}

/** Weights of a trial's experts, as its prompt would be served under a calibration. */
export function weightsOf(trial: Trial, calibration: EvidenceCalibration): MixtureWeights {
  const { basePrior, ...rule } = ruleFor(calibration, trial.promptTokens, marginOf(trial.nearest));
  return weigh(priorsOf(trial.nearest, basePrior, calibration), rule, trial.evidence).weights;
}

/** Nats that a mixture gains over the base on the tokens after the prompt. */
export function gainOf({ continuation }: Trial, weights: MixtureWeights): number {
  const odds = pointerOdds(weights);
  let nats = 0;
  for (const token of continuation) nats += Math.log(mixedProbability(weights, token, odds) / token.experts[0]);
  return nats;
}

/** The places in the grid of what was chosen for one length. */
export interface Choice {
  floor: number;
  candidate: number;
}

/**
 * For each length, of the choices that do the least harm and gain about as much as any the safest: for each floor the candidate
 * that stays furthest from what is tolerated, then the highest floor.
 * @param keep families whose trials count
 */
export function choose(measured: readonly Measured[], keep: (family: string) => boolean = () => true): Choice[] {
  return measured.map((one) => {
    const byFloor = grid.floor.map((height, floor) => {
      const scores = candidates.map((_, candidate) => ({
        candidate,
        ...scoreOf(one, one.gains[floor][candidate], keep),
      }));
      return { ...safest(scores, worthOfSafety), floor, safety: height };
    });
    const { floor, candidate } = safest(byFloor, worthOfFloor);
    return { floor, candidate };
  });
}

/** What a manifest brings: a row for each measured length, which holds from that length on. */
export function calibrationOf(measured: readonly Measured[], choices: readonly Choice[]) {
  return calibrationWith(
    measured.map(({ promptTokens, typical }, l) => ({
      promptTokens,
      ...candidates[choices[l].candidate],
      floor: grid.floor[choices[l].floor],
      typical,
    })),
  ) satisfies EvidenceCalibration;
}

interface Score {
  /** Nats a token beyond what is tolerated, of whatever is harmed most. */
  harm: number;
  /** Mean over the groups, in nats a token. */
  gain: number;
  /** Higher is safer. */
  safety: number;
}

function safest<T extends Score>(scores: readonly T[], worth: number): T {
  const leastHarm = Math.min(...scores.map(({ harm }) => harm));
  const leastHarmful = scores.filter(({ harm }) => harm <= (leastHarm > 0 ? leastHarm + sameHarm : 0));
  const mostGain = Math.max(...leastHarmful.map(({ gain }) => gain));
  return leastHarmful
    .filter(({ gain }) => gain >= mostGain - worth)
    .reduce((best, score) => (score.safety > best.safety ? score : best));
}

function scoreOf(
  { promptTokens, trials, nearest }: Measured,
  gains: Float32Array,
  keep: (family: string) => boolean,
): Score {
  const groups = new Map<string, GroupSum>();
  const served = new Map<string, Map<string, NatsSum>>();
  for (const [t, { group, family, tokens, isServed, document }] of trials.entries()) {
    if (!keep(family)) continue;
    if (isServed) {
      const documents = atOf(served, group, () => new Map<string, NatsSum>());
      add(atOf(documents, document, zero), (nearest[t] - gains[t]) * tokens, tokens);
      continue;
    }
    const sum = atOf(groups, group, () => ({ ...zero(), texts: [] }));
    add(sum, gains[t] * tokens, tokens);
    sum.texts.push(gains[t]);
  }
  const means = [...groups.values()].map(({ nats, tokens }) => nats / tokens);
  const lowest = Math.min(...means);
  const worstOfAll = meanOfWorst([...groups.values()].flatMap(({ texts }) => texts));
  const worstOfGroup = Math.min(...groups.values().map(({ texts }) => meanOfWorst(texts)));
  const behind = [...served.values()].map((documents) => estimateOf([...documents.values()]));
  /**
   * Most nats a token beyond what is tolerated; below 0 all is within. Known text is behind by its mean less `errors` standard
   * errors.
   */
  const excess = (errors: number) =>
    Math.max(
      -lowest - toleratedLoss,
      -worstOfAll - toleratedWorstLoss.ofAll,
      -worstOfGroup - toleratedWorstLoss.ofGroup,
      atLeast(behind, errors) - toleratedBehindNearest.ofAll,
      ...(promptTokens < prefixTokens
        ? []
        : behind.map((one) => atLeast([one], errors) - toleratedBehindNearest.ofGroup)),
    );
  const harm = excess(1);
  // Gains are kept as float32: a smaller harm is rounding.
  return { harm: harm < 1e-6 ? 0 : harm, gain: meanOf(means), safety: -excess(0) };
}

/** Over tokens of some texts. */
interface NatsSum {
  nats: number;
  tokens: number;
}

/** Of one group, over the tokens after its prompts. */
interface GroupSum extends NatsSum {
  /** Gain of each text, in nats a token. */
  texts: number[];
}

function zero(): NatsSum {
  return { nats: 0, tokens: 0 };
}

function add(sum: NatsSum, nats: number, tokens: number): void {
  sum.nats += nats;
  sum.tokens += tokens;
}

/** A mean in nats a token, with its standard error. */
interface Estimate {
  mean: number;
  error: number;
}

/** Of some documents; a single one does not say how much they vary. */
function estimateOf(documents: readonly NatsSum[]): Estimate {
  const n = documents.length;
  const tokens = documents.reduce((sum, one) => sum + one.tokens, 0);
  const mean = documents.reduce((sum, { nats }) => sum + nats, 0) / tokens;
  const squares = documents.reduce((sum, one) => sum + (one.nats - mean * one.tokens) ** 2, 0);
  return { mean, error: n < 2 ? Number.POSITIVE_INFINITY : Math.sqrt((n / (n - 1)) * squares) / tokens };
}

/** Mean of groups less `errors` of its standard errors; −∞ where one has a single document, or there is none. */
function atLeast(groups: readonly Estimate[], errors: number): number {
  const error = Math.hypot(...groups.map((one) => one.error)) / groups.length;
  if (!Number.isFinite(error)) return Number.NEGATIVE_INFINITY;
  return meanOf(groups.map(({ mean }) => mean)) - errors * error;
}

function atOf<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const there = map.get(key);
  if (there !== undefined) return there;
  const made = make();
  map.set(key, made);
  return made;
}

function meanOfWorst(gains: readonly number[]): number {
  const rising = [...gains].sort((a, b) => a - b);
  return meanOf(rising.slice(0, Math.ceil(worstShare * rising.length)));
}

function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
