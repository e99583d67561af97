/** Fits the six weights of λ (`memoryWeight`) by gradient descent on the negative log-likelihood of observed tokens. Pure. */
import { adamWStep } from "../../../shared/math/adamw.ts";
import { type MemoryRule, memoryFeatures } from "../../../shared/math/memory.ts";
import type { Observation } from "../../training/memory-scores.ts";

const featureCount = 6;
const steps = 300;
const learningRate = 0.15;

/** Related (`own`) and unrelated (`foreign`) memories have the same weight in the loss. */
export function fitWeights(
  rule: MemoryRule,
  own: readonly (readonly Observation[])[],
  foreign: readonly (readonly Observation[])[],
): MemoryRule {
  const rows = [own, foreign].flatMap((side) =>
    side.flatMap((list) => list.map((one) => rowOf(one, 1 / (side.length * list.length)))),
  );
  const weights = Float32Array.from(rule.weights);
  const moments = { first: new Float32Array(weights.length), second: new Float32Array(weights.length) };
  for (let step = 1; step <= steps; step++) {
    const gradient = gradientAt(weights, rule.maxShare, rows);
    const rate = learningRate * (1 - (step - 1) / steps);
    adamWStep(weights, gradient, moments, step, rate, 0);
  }
  const [a, b, c, d, e, f] = Array.from(weights, (weight) => Number(weight.toFixed(3)));
  return { ...rule, weights: [a, b, c, d, e, f] };
}

/** `share` is the token's weight in the loss. `ahead` is p_memory − p_model. */
function rowOf(one: Observation, share: number) {
  return { features: memoryFeatures(one), ofModel: one.ofModel, ahead: one.ofMemory - one.ofModel, share };
}

/** The gradient of Σ share · −log p by the weights. */
function gradientAt(weights: Float32Array, maxShare: number, rows: readonly ReturnType<typeof rowOf>[]): Float32Array {
  const gradient = new Float64Array(featureCount);
  for (const { features, ofModel, ahead, share } of rows) {
    let z = 0;
    for (let i = 0; i < featureCount; i++) z += features[i] * weights[i];
    const weight = 1 / (1 + Math.exp(-z));
    if (weight > maxShare) continue;
    const slope = (-share * ahead * weight * (1 - weight)) / (ofModel + weight * ahead);
    for (let i = 0; i < featureCount; i++) gradient[i] += slope * features[i];
  }
  return Float32Array.from(gradient);
}
