/**
 * Fits an own adapter to examples by cross-validation. Without a significant gain, no adapter is kept.
 * Shapes: N positions, D hidden size, V vocabulary, C candidates, R rank.
 */
import { ownRank } from "../../../shared/artifacts/limits.ts";
import { adamWStep, type Moments } from "../../../shared/math/adamw.ts";
import { deriveSeed, uniformAt } from "../../../shared/math/sampling.ts";
import type { Delta, FitSession } from "../../runtime/fit-session.ts";
import { type ExampleGain, type Gain, gainOver } from "./held-out-gain.ts";

export interface Example {
  hidden: Float32Array; // [N, D]
  targets: Int32Array; // [N]
}

export interface OwnAdapterFit {
  /** null if no adapter is kept. */
  delta: Delta | null;
  /** Gain over the static adapter on held-out examples; null if only one example was held out. */
  gain: Gain | null;
  losses: Awaited<ReturnType<typeof lossAt>>[];
}

const maxFolds = 5;
/** With more positions, only one fold is held out, to save time. Otherwise every fold is held out in turn. */
const crossedPositions = 4096;
/** Numbers of steps after which the held-out loss is measured. Training ends if `patience` measurements bring no new minimum. */
const checkpoints = [4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192];
const patience = 3;
/** Maximum positions of a training step, drawn at random if the examples have more. */
const stepPositions = 1024;
/** Bound on N · C, the logits of the candidates at all positions: 64 MB. */
const maxLogits = 2 ** 24;
const maxCandidates = 2048;
/** About how much one training step changes a logit. */
const learningRate = 0.12;
/** The share of each parameter that a step removes. */
const decay = 0.01;
/** Positions in one call of `survey`, which computes the whole vocabulary. */
const surveyPositions = 128;
/** Training steps of the adapter that finds candidates (`prepare`). */
const miningSteps = 32;

/** If `validation` is null, each fold of the examples is held out in turn. */
export async function fitOwnAdapter(
  examples: readonly Example[],
  validation: readonly Example[] | null,
  session: FitSession,
): Promise<OwnAdapterFit> {
  const all = [...examples, ...(validation ?? [])];
  const data = await prepare(all, examples.length, session);
  const parts = validation ? 1 : Math.min(maxFolds, examples.length);
  const folds = data.targets.length > crossedPositions ? 1 : parts;
  const order = shuffled(examples.length);
  const foldOf = all.map((_, i) => (i >= examples.length ? 0 : validation ? -1 : order[i] % parts));
  const runs = Array.from({ length: folds }, (_, fold) => {
    const isLearnt = (i: number) => i < examples.length && foldOf[i] !== fold;
    return new Training(data, isLearnt, (i) => foldOf[i] === fold);
  });
  const losses = [await lossAt(0, runs, session)];
  const kept: { step: number; deltas: Delta[]; heldOut: number[] }[] = [];
  for (const step of checkpoints) {
    for (const one of runs) await one.trainTo(step, session);
    losses.push(await lossAt(step, runs, session));
    kept.push({
      step,
      deltas: runs.map((one) => one.adapter),
      heldOut: runs.map((one) => one.heldOut),
    });
    const best = losses.reduce((least, one) => (one.heldOut < least.heldOut ? one : least));
    if (losses.indexOf(best) <= losses.length - 1 - patience) break;
  }
  // The fold's own loss does not choose the step, so that the fold's gain is not biased.
  const bestFor = (fold: number) =>
    kept.reduce((least, one) => (lossWithout(one.heldOut, fold) < lossWithout(least.heldOut, fold) ? one : least));
  const gains: ExampleGain[] = [];
  for (let fold = 0; fold < folds; fold++) {
    const held = [...all.keys()].filter((i) => foldOf[i] === fold);
    gains.push(...(await exactGains(held, data, bestFor(fold).deltas[fold], session)));
  }
  const gain = gains.length > 1 ? gainOver(gains) : null;
  if (!gain || gain.ci95[0] <= 0) return { delta: null, gain, losses };
  const { step } = bestFor(-1);
  const whole = new Training(data, (i) => i < examples.length);
  await whole.trainTo(step, session);
  return { delta: whole.adapter, gain, losses };
}

/** Sum of the held-out losses of all folds but `fold`. If there is only one fold, the sum is its own loss. */
function lossWithout(heldOut: readonly number[], fold: number): number {
  return heldOut.reduce((sum, loss, f) => sum + (f === fold && heldOut.length > 1 ? 0 : loss), 0);
}

/** The loss is over candidate tokens. The last candidate stands for all tokens that are not candidates. */
interface FitData {
  /** Index of each example's first position, then N. */
  offsets: number[];
  hidden: Float32Array; // [N, D]
  targetIds: Int32Array; // [N]
  /** Log-likelihoods of the targets under the static adapter, [N]. */
  logprobs: Float32Array;
  /** Logits of the candidates under the static adapter, [N, C]. */
  logits: Float32Array;
  targets: Int32Array; // indexes of candidates, [N]
  /** The candidates' rows of the LM head, [C, D]. */
  rows: Float32Array;
  /** Root mean square of `rows`. */
  rowScale: number;
}

interface Base extends Pick<FitData, "offsets" | "hidden" | "targetIds" | "logprobs"> {
  adapted: Float32Array; // [N, D]
  logSumExp: Float32Array; // [N]
  /** Probability of each token, summed over the positions, [V]. */
  expected: Float64Array;
  /** Scores by token id. The tokens with the highest scores become candidates. */
  wanted: Map<number, number>;
}

/** The first `learnt` examples are for training, the later ones are held out. */
async function prepare(all: readonly Example[], learnt: number, session: FitSession): Promise<FitData> {
  const base = await surveyAll(all, session);
  for (const id of base.targetIds) want(base, id, all.length);
  // The loss ignores tokens that are not candidates, so a first adapter shows which tokens training makes likely.
  const data = await withCandidates(base, session);
  const pilot = new Training(data, (i) => i < learnt);
  await pilot.trainTo(miningSteps, session);
  const mined = Math.min(stepPositions, base.targetIds.length);
  const hidden = base.hidden.subarray(0, mined * session.hiddenSize);
  const change = changeOf(pilot.adapter, hidden);
  const { topIds } = await session.survey(hidden, change, base.targetIds.subarray(0, mined));
  for (const id of topIds) want(base, id, 1);
  return withCandidates(base, session);
}

function want({ wanted }: Base, id: number, more: number): void {
  wanted.set(id, (wanted.get(id) ?? 0) + more);
}

async function surveyAll(all: readonly Example[], session: FitSession): Promise<Base> {
  const D = session.hiddenSize;
  const offsets = [0];
  for (const { targets } of all) offsets.push(offsets.at(-1)! + targets.length);
  const N = offsets.at(-1)!;
  const floats = (length: number) => new Float32Array(length);
  const base: Base = {
    ...{ offsets, hidden: floats(N * D), targetIds: new Int32Array(N), logprobs: floats(N) },
    ...{ adapted: floats(N * D), logSumExp: floats(N), wanted: new Map() },
    expected: new Float64Array(session.embedding.length / D),
  };
  for (const [i, { hidden, targets }] of all.entries()) {
    base.hidden.set(hidden, offsets[i] * D);
    base.targetIds.set(targets, offsets[i]);
  }
  for (let at = 0; at < N; at += surveyPositions) {
    const to = Math.min(N, at + surveyPositions);
    const states = base.hidden.subarray(at * D, to * D);
    const found = await session.survey(states, null, base.targetIds.subarray(at, to));
    base.adapted.set(found.adapted, at * D);
    base.logprobs.set(found.logprobs, at);
    base.logSumExp.set(found.logSumExp, at);
    for (const id of found.topIds) want(base, id, 1);
    found.expected.forEach((mass, id) => {
      base.expected[id] += mass;
    });
  }
  return base;
}

async function withCandidates(base: Base, session: FitSession): Promise<FitData> {
  const { hiddenSize: D, embedding } = session;
  const { offsets, hidden, targetIds, logprobs, adapted, logSumExp, wanted } = base;
  const N = targetIds.length;
  const most = Math.min(maxCandidates, Math.floor(maxLogits / N) - 1);
  const candidates = [...wanted.keys()].sort((x, y) => wanted.get(y)! - wanted.get(x)! || x - y).slice(0, most);
  const C = candidates.length + 1;
  const rows = new Float32Array(C * D);
  const placeOf = new Map(candidates.map((id, place) => [id, place]));
  const others = base.expected.slice();
  candidates.forEach((id, place) => {
    rows.set(embedding.subarray(id * D, (id + 1) * D), place * D);
    others[id] = 0;
  });
  rows.set(meanRow(embedding, others, D), (C - 1) * D);
  const logits = new Float32Array(N * C);
  for (let from = 0; from < N; from += stepPositions) {
    const to = Math.min(N, from + stepPositions);
    logits.set(await session.logits(adapted.subarray(from * D, to * D), rows), from * C);
  }
  for (let n = 0; n < N; n++) {
    let mass = 0;
    for (let k = 0; k < C - 1; k++) mass += Math.exp(logits[n * C + k] - logSumExp[n]);
    logits[n * C + C - 1] = logSumExp[n] + Math.log(Math.max(1e-6, 1 - mass));
  }
  const targets = targetIds.map((id) => placeOf.get(id) ?? C - 1);
  return { offsets, hidden, targetIds, logprobs, logits, targets, rows, rowScale: rms(rows) };
}

/** Weighted mean [D] of the rows of a matrix [N, D]. Weights below 1e-7 count as 0. */
function meanRow(rows: Float32Array, weights: Float64Array, D: number): Float32Array {
  const mean = new Float64Array(D);
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  if (total === 0) return new Float32Array(D);
  for (const [n, weight] of weights.entries()) {
    if (weight < 1e-7) continue;
    for (let d = 0; d < D; d++) mean[d] += (weight / total) * rows[n * D + d];
  }
  return Float32Array.from(mean);
}

function rms(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length) || 1;
}

class Training {
  /** Mean losses in nats per token. */
  heldOut = 0;
  train = 0;
  readonly #data: FitData;
  /** Mean of the learnt hidden states, [D], which is most of each state. Training reads the states without it. */
  readonly #mean: Float32Array;
  /** Root mean square of the learnt states without their mean. */
  readonly #hiddenScale: number;
  /** The adapter, if applied to states without the mean. */
  readonly #delta: Delta;
  readonly #learnt: Int32Array;
  readonly #held: Int32Array;
  readonly #moments: Record<keyof Delta, Moments>;
  #batch: Batch | null = null;
  #step = 0;

  constructor(
    data: FitData,
    isLearnt: (example: number) => boolean,
    isHeld: (example: number) => boolean = () => false,
  ) {
    const D = data.hidden.length / data.targets.length;
    this.#data = data;
    this.#learnt = positionsOf(data, isLearnt);
    this.#held = positionsOf(data, isHeld);
    const size = ownRank * D;
    const moments = (length: number) => ({ first: new Float32Array(length), second: new Float32Array(length) });
    this.#moments = { a: moments(size), b: moments(size), c: moments(D) };
    const weights = new Float64Array(data.targets.length);
    for (const n of this.#learnt) weights[n] = 1;
    this.#mean = meanRow(data.hidden, weights, D);
    this.#hiddenScale = rms(this.#batchOf(this.#learnt).hidden);
    const spread = 1 / (Math.sqrt(D) * this.#hiddenScale);
    const a = Float32Array.from({ length: size }, (_, i) => spread * normalAt(i));
    this.#delta = { a, b: new Float32Array(size), c: new Float32Array(D) };
  }

  /** The same adapter, if applied to whole states: B(A(h − mean)) + c is B(Ah) + c − B(A · mean). */
  get adapter(): Delta {
    const { a, b, c } = this.#delta;
    const ofMean = changeOf({ a, b, c: new Float32Array(c.length) }, this.#mean);
    return { a: a.slice(), b: b.slice(), c: c.map((value, d) => value - ofMean[d]) };
  }

  async trainTo(step: number, session: FitSession): Promise<void> {
    const delta = this.#delta;
    const D = delta.c.length;
    const units = { a: this.#hiddenScale, b: this.#data.rowScale, c: this.#data.rowScale };
    while (this.#step < step) {
      this.#step++;
      const batch = this.#nextBatch();
      const { gradients } = await session.step({ ...batch, ...delta });
      for (const name of ["a", "b", "c"] as const) {
        const rate = learningRate / units[name] / D;
        adamWStep(delta[name], gradients[name], this.#moments[name], this.#step, rate, decay / rate);
      }
    }
  }

  async measure(session: FitSession): Promise<void> {
    this.train = await this.#meanLoss(this.#learnt, session);
    this.heldOut = await this.#meanLoss(this.#held, session);
  }

  /** Uses every n-th position if the positions do not fit in a step. */
  async #meanLoss(positions: Int32Array, session: FitSession): Promise<number> {
    const stride = Math.ceil(positions.length / stepPositions);
    const chosen = positions.filter((_, i) => i % stride === 0);
    const { nll } = await session.step({ ...this.#batchOf(chosen), ...this.#delta });
    return nll.reduce((total, loss) => total + loss, 0) / nll.length;
  }

  #nextBatch(): Batch {
    if (this.#learnt.length <= stepPositions) {
      this.#batch ??= this.#batchOf(this.#learnt);
      return this.#batch;
    }
    const start = (this.#step - 1) * stepPositions;
    const drawn = Int32Array.from(
      { length: stepPositions },
      (_, i) => this.#learnt[Math.floor(uniformAt(deriveSeed(2, 0), start + i) * this.#learnt.length)],
    );
    return this.#batchOf(drawn);
  }

  #batchOf(positions: Int32Array): Batch {
    const { hidden, logits, targets, rows } = this.#data;
    const D = this.#mean.length;
    const centred = gather(hidden, D, positions).map((value, i) => value - this.#mean[i % D]);
    const chosen = gather(logits, logits.length / targets.length, positions);
    return { hidden: centred, logits: chosen, targets: positions.map((n) => targets[n]), rows };
  }
}

/** Losses in nats per token, averaged over the folds. */
async function lossAt(step: number, runs: readonly Training[], session: FitSession) {
  for (const one of runs) await one.measure(session);
  const mean = (of: (one: Training) => number) => runs.reduce((sum, one) => sum + of(one), 0) / runs.length;
  return { step, train: mean(({ train }) => train), heldOut: mean(({ heldOut }) => heldOut) };
}

type Batch = Pick<FitData, "hidden" | "logits" | "targets" | "rows">;

/** The named rows of a matrix with `width` columns. */
function gather(values: Float32Array, width: number, rows: Int32Array): Float32Array {
  const result = new Float32Array(rows.length * width);
  for (const [i, n] of rows.entries()) result.set(values.subarray(n * width, (n + 1) * width), i * width);
  return result;
}

function positionsOf({ offsets }: FitData, isWanted: (example: number) => boolean): Int32Array {
  const positions: number[] = [];
  for (let i = 0; i + 1 < offsets.length; i++) {
    if (isWanted(i)) for (let n = offsets[i]; n < offsets[i + 1]; n++) positions.push(n);
  }
  return Int32Array.from(positions);
}

/** Gains over the whole vocabulary, not only over candidates. */
async function exactGains(
  examples: readonly number[],
  { offsets, hidden, targetIds, logprobs }: FitData,
  delta: Delta,
  session: FitSession,
): Promise<ExampleGain[]> {
  const D = session.hiddenSize;
  const gains: ExampleGain[] = [];
  for (const i of examples) {
    const [from, to] = [offsets[i], offsets[i + 1]];
    const states = hidden.subarray(from * D, to * D);
    const targets = targetIds.subarray(from, to);
    const after = await session.survey(states, changeOf(delta, states), targets);
    const nats = after.logprobs.reduce((sum, logprob, n) => sum + logprob - logprobs[from + n], 0);
    gains.push({ tokens: to - from, nats });
  }
  return gains;
}

/** Returns B(Ah) + c for states h [N, D]. */
export function changeOf({ a, b, c }: Delta, states: Float32Array): Float32Array {
  const D = c.length;
  const change = new Float32Array(states.length);
  for (let at = 0; at < states.length; at += D) {
    change.set(c, at);
    for (let r = 0; r < a.length; r += D) {
      let u = 0;
      for (let d = 0; d < D; d++) u += a[r + d] * states[at + d];
      for (let d = 0; d < D; d++) change[at + d] += u * b[r + d];
    }
  }
  return change;
}

/** Shuffles, because examples may be sorted by label. The seed is fixed. */
function shuffled(length: number): number[] {
  const keys = Array.from({ length }, (_, i) => uniformAt(deriveSeed(3, 0), i));
  const ranks = new Map(keys.toSorted((x, y) => x - y).map((key, rank) => [key, rank]));
  return keys.map((key) => ranks.get(key)!);
}

/** A standard normal number (Box–Muller). The seed is fixed. */
function normalAt(i: number): number {
  const seed = deriveSeed(1, 0);
  const radius = Math.sqrt(-2 * Math.log(1 - uniformAt(seed, 2 * i)));
  return radius * Math.cos(2 * Math.PI * uniformAt(seed, 2 * i + 1));
}
