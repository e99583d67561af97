/**
 * The rank-one part: one direction of the hidden state, and what it adds to the tokens that the examples use often.
 * delta = (a·h + offset)·b, fitted with closed-form derivatives: the leading direction of the residuals first, then a
 * few damped Newton steps, each taken only if it lowers the loss. Pure, and deterministic: no draw is made.
 * Shapes: N positions, D hidden size, M tokens of the support, R of them bent by the direction.
 */

import { factorised, solved } from "./cholesky.ts";
import type { Observed } from "./examples.ts";
import type { ExampleGain } from "./held-out-gain.ts";
import { addGain } from "./token-bias.ts";

export interface RankOne {
  a: Float64Array; // [D]
  offset: number;
  /** Indexes into the support, [R]. */
  bent: Int32Array;
  b: Float64Array; // [R]
}

/** A token that came less often says nothing about a direction. */
const minimumCount = 3;
/** Weight of ½|b|², in nats: as if each token's slope had been seen to be 0 about that often. */
const slopePenalty = 6;
/** Added to the variances of the standardised hidden state, so that no direction of little variance leads. */
const ridge = 0.3;
const leadingIterations = 6;
const newtonIterations = 4;
const largestSlopeStep = 0.5;
/** Products that the covariance of the hidden state may cost; it is taken over as many positions as that allows. */
const covarianceProducts = 2 ** 24;

/**
 * Fits to positions `at` on top of a bias [M] of the support; no other position has any influence. null where no token
 * occurs often enough.
 */
export function fitRankOne(observed: Observed, at: Int32Array, bias: Float64Array): RankOne | null {
  const bent = bentTokens(observed, at);
  if (bent.length === 0) return null;
  const states = standardised(observed, at);
  const head = biasedHead(observed, at, bias, bent);
  const lead = leadingDirection(head, states);
  const start = { direction: lead, b: new Float64Array(bent.length) };
  const { direction, b } = descend(head, states, start);
  const a = direction.map((value, d) => value / states.deviations[d]);
  const offset = -a.reduce((sum, value, d) => sum + value * states.means[d], 0);
  return { a, offset, bent, b };
}

/** What it gains on positions `at` on top of the bias, at each of `strengths`, by example: the list is by strength. */
export function rankOneGains(
  observed: Observed,
  at: Int32Array,
  bias: Float64Array,
  { a, offset, bent, b }: RankOne,
  strengths: readonly number[],
): Map<number, ExampleGain>[] {
  const D = a.length;
  const R = bent.length;
  const head = biasedHead(observed, at, bias, bent);
  const gains = strengths.map(() => new Map<number, ExampleGain>());
  at.forEach((n, i) => {
    let u = offset;
    for (let d = 0; d < D; d++) u += a[d] * observed.hidden[n * D + d];
    strengths.forEach((strength, s) => {
      let mass = 0;
      for (let r = 0; r < R; r++) mass += head.probabilities[i * R + r] * Math.expm1(strength * u * b[r]);
      const target = head.targets[i];
      const logit = target < 0 ? 0 : strength * u * b[target];
      addGain(gains[s], observed.exampleOf[n], logit - Math.log1p(mass));
    });
  });
  return gains;
}

/** The probabilities that the direction bends, the bias already in them, at N chosen positions. */
export interface BentHead {
  probabilities: Float32Array; // [N, R]
  /** Index into the bent tokens, or -1 for another token, [N]. */
  targets: Int32Array;
}

function bentTokens({ support, targets }: Observed, at: Int32Array): Int32Array {
  const seen = new Int32Array(support.length);
  for (const n of at) seen[targets[n]]++;
  return Int32Array.from(seen.keys().filter((m) => seen[m] >= minimumCount));
}

function biasedHead(observed: Observed, at: Int32Array, bias: Float64Array, bent: Int32Array): BentHead {
  const M = bias.length;
  const R = bent.length;
  const factors = bias.map(Math.exp);
  const placeOf = new Int32Array(M).fill(-1);
  bent.forEach((m, r) => {
    placeOf[m] = r;
  });
  const probabilities = new Float32Array(at.length * R);
  at.forEach((n, i) => {
    const row = observed.probabilities.subarray(n * M, (n + 1) * M);
    let total = 1;
    for (let m = 0; m < M; m++) total += row[m] * (factors[m] - 1);
    for (let r = 0; r < R; r++) probabilities[i * R + r] = (row[bent[r]] * factors[bent[r]]) / total;
  });
  return { probabilities, targets: Int32Array.from(at, (n) => placeOf[observed.targets[n]]) };
}

/** Hidden states of N positions, standardised over these positions alone. */
interface States {
  /** Each element centred and brought to variance 1, [N, D]. */
  values: Float32Array;
  means: Float64Array; // [D]
  deviations: Float64Array; // [D]
  /** Cholesky factor of their covariance with the ridge, [D, D]. */
  factor: Float64Array;
}

function standardised({ hidden, exampleOf }: Observed, at: Int32Array): States {
  const N = at.length;
  const D = hidden.length / exampleOf.length;
  const means = new Float64Array(D);
  const squares = new Float64Array(D);
  for (const n of at) {
    for (let d = 0, i = n * D; d < D; d++, i++) {
      means[d] += hidden[i] / N;
      squares[d] += hidden[i] ** 2 / N;
    }
  }
  const deviations = squares.map((square, d) => Math.sqrt(Math.max(square - means[d] ** 2, 1e-12)));
  const values = new Float32Array(N * D);
  at.forEach((n, row) => {
    for (let d = 0, i = n * D, j = row * D; d < D; d++, i++, j++) values[j] = (hidden[i] - means[d]) / deviations[d];
  });
  const stride = Math.ceil((N * D * D) / covarianceProducts);
  return { values, means, deviations, factor: factorised(covariance(values, N, D, stride)) };
}

/** Of every `stride`-th row, with the ridge on its diagonal; the lower triangle, [D, D]. */
function covariance(values: Float32Array, N: number, D: number, stride: number): Float64Array {
  const result = new Float64Array(D * D);
  let rows = 0;
  for (let n = 0; n < N; n += stride, rows++) {
    const row = values.subarray(n * D, (n + 1) * D);
    for (let i = 0; i < D; i++) {
      const x = row[i];
      for (let j = 0, at = i * D; j <= i; j++) result[at + j] += x * row[j];
    }
  }
  for (let i = 0; i < D * D; i++) result[i] /= rows;
  for (let i = 0; i < D; i++) result[i * D + i] += ridge;
  return result;
}

/** Of the hidden state, the direction [D] that tells most about what the head gets wrong; its variance is 1. */
function leadingDirection(head: BentHead, states: States): Float64Array<ArrayBuffer> {
  const R = head.probabilities.length / head.targets.length;
  // Any start but one orthogonal to the answer does; this one is nobody's.
  let b = Float64Array.from({ length: R }, (_, r) => Math.sin(12.9898 * (r + 1)));
  let direction = new Float64Array(states.means.length);
  for (let k = 0; k < leadingIterations; k++) {
    direction = solved(states.factor, gradientOf(states, residualsAlong(head, b)));
    const u = along(states, direction);
    const deviation = Math.sqrt(u.reduce((sum, value) => sum + value * value, 0) / u.length);
    direction = direction.map((value) => value / deviation);
    b = firstSlopes(
      head,
      u.map((value) => value / deviation),
    );
  }
  return direction;
}

/** One Newton step of b from 0, where no exponential is needed. */
function firstSlopes({ probabilities, targets }: BentHead, u: Float64Array): Float64Array<ArrayBuffer> {
  const R = probabilities.length / targets.length;
  const slopes = new Float64Array(R);
  const curvatures = new Float64Array(R);
  for (let n = 0; n < u.length; n++) {
    const un = u[n];
    if (targets[n] >= 0) slopes[targets[n]] += un;
    for (let r = 0, i = n * R; r < R; r++, i++) {
      const p = probabilities[i];
      slopes[r] -= un * p;
      curvatures[r] += un * un * p * (1 - p);
    }
  }
  return slopes.map((slope, r) => slope / (curvatures[r] + slopePenalty));
}

/** Damped Newton steps in direction and slopes together. */
function descend(head: BentHead, states: States, start: { direction: Float64Array; b: Float64Array }) {
  let { direction, b } = start;
  let u = along(states, direction);
  let now = derivatives(head, u, b);
  for (let k = 0; k < newtonIterations; k++) {
    const slopeStep = now.slopes.map((slope, r) =>
      clamped(-(slope + slopePenalty * b[r]) / (now.curvatures[r] + slopePenalty), largestSlopeStep),
    );
    // At b = 0 no direction is better than another.
    const curvature = now.alongCurvature;
    const turn = k === 0 ? direction.map(() => 0) : solved(states.factor, gradientOf(states, now.along));
    let isBetter = false;
    for (let step = 1; step >= 0.25 && !isBetter; step /= 2) {
      const nextB = b.map((value, r) => value + step * slopeStep[r]);
      const nextDirection = direction.map((value, d) => value - (step * turn[d]) / (curvature + ridge));
      const nextU = along(states, nextDirection);
      const next = derivatives(head, nextU, nextB);
      if (penalised(next.loss, nextB) >= penalised(now.loss, b)) continue;
      [b, direction, u, now, isBetter] = [nextB, nextDirection, nextU, next, true];
    }
    if (!isBetter) break;
  }
  return { direction, b };
}

function penalised(loss: number, b: Float64Array): number {
  return loss + 0.5 * slopePenalty * b.reduce((sum, value) => sum + value * value, 0);
}

/**
 * Of the summed loss Σ log(1 + Σ p·(e^(u·b) − 1)) − u·b_target: its derivatives by b [R], first and second, by u [N],
 * and the mean second derivative by u.
 */
export function derivatives({ probabilities, targets }: BentHead, u: Float64Array, b: Float64Array) {
  const R = b.length;
  const slopes = new Float64Array(R);
  const curvatures = new Float64Array(R);
  const by = new Float64Array(u.length);
  const bentMass = new Float64Array(R);
  let loss = 0;
  let alongCurvature = 0;
  for (let n = 0; n < u.length; n++) {
    const un = u[n];
    let total = 1;
    for (let r = 0, i = n * R; r < R; r++, i++) {
      const p = probabilities[i];
      const q = p * Math.exp(un * b[r]);
      bentMass[r] = q;
      total += q - p;
    }
    let mean = 0;
    let square = 0;
    for (let r = 0; r < R; r++) {
      const q = bentMass[r] / total;
      slopes[r] += un * q;
      curvatures[r] += un * un * q * (1 - q);
      mean += q * b[r];
      square += q * b[r] * b[r];
    }
    const target = targets[n];
    if (target >= 0) slopes[target] -= un;
    by[n] = mean - (target < 0 ? 0 : b[target]);
    alongCurvature += (square - mean * mean) / u.length;
    loss += Math.log(total) - (target < 0 ? 0 : un * b[target]);
  }
  return { loss, slopes, curvatures, along: by, alongCurvature };
}

/** b of what came less the expectation of b, at each position, [N]. */
function residualsAlong({ probabilities, targets }: BentHead, b: Float64Array): Float64Array {
  const R = b.length;
  return Float64Array.from(targets, (target, n) => {
    let residual = target < 0 ? 0 : b[target];
    for (let r = 0, i = n * R; r < R; r++, i++) residual -= probabilities[i] * b[r];
    return residual;
  });
}

/** Mean of values [N] times the states, [D]. */
function gradientOf({ values, means }: States, weights: Float64Array): Float64Array<ArrayBuffer> {
  const D = means.length;
  const result = new Float64Array(D);
  weights.forEach((weight, n) => {
    for (let d = 0, i = n * D; d < D; d++, i++) result[d] += weight * values[i];
  });
  return result.map((value) => value / weights.length);
}

/** The states along a direction, [N]. */
function along({ values, means }: States, direction: Float64Array): Float64Array {
  const D = means.length;
  return Float64Array.from({ length: values.length / D }, (_, n) => {
    let sum = 0;
    for (let d = 0, i = n * D; d < D; d++, i++) sum += direction[d] * values[i];
    return sum;
  });
}

function clamped(value: number, bound: number): number {
  return Math.min(bound, Math.max(-bound, value));
}
