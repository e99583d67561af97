/** AdamW (Loshchilov & Hutter 2019): Adam with weight decay that does not depend on the gradient. */

const beta1 = 0.9;
const beta2 = 0.98;
const epsilon = 1e-8;

export interface Moments {
  first: Float32Array;
  second: Float32Array;
}

/** Changes `parameter` and `moments` in place. `step` counts from 1. */
export function adamWStep(
  parameter: Float32Array,
  gradient: Float32Array,
  moments: Moments,
  step: number,
  learningRate: number,
  weightDecay: number,
): void {
  const { first, second } = moments;
  const firstCorrection = 1 / (1 - beta1 ** step);
  const secondCorrection = 1 / (1 - beta2 ** step);
  for (let i = 0; i < parameter.length; i++) {
    first[i] = beta1 * first[i] + (1 - beta1) * gradient[i];
    second[i] = beta2 * second[i] + (1 - beta2) * gradient[i] * gradient[i];
    const direction = (first[i] * firstCorrection) / (Math.sqrt(second[i] * secondCorrection) + epsilon);
    parameter[i] -= learningRate * (direction + weightDecay * parameter[i]);
  }
}

/** Linear warm-up, then a cosine down to zero. `step` counts from 1. */
export function learningRateAt(step: number, steps: number, peak: number, warmUpSteps: number): number {
  if (step <= warmUpSteps) return (peak * step) / warmUpSteps;
  const progress = (step - warmUpSteps) / Math.max(1, steps - warmUpSteps);
  return peak * 0.5 * (1 + Math.cos(Math.PI * Math.min(1, progress)));
}
