/** The full kind's training graph against its formulas, and its measure against serving's own code. */
import { expect, test } from "vitest";
import { openSession, tensor } from "../../../gpu-backend/runtime/session.ts";
import { fullKind, fullNetwork } from "../../../gpu-backend/training/bank/full-kind.ts";
import { wholePair } from "../../../gpu-backend/training/bank/measure.ts";
import type { FullShape, ParameterName, Parameters } from "../../../gpu-backend/training/bank/parameters.ts";
import { Random } from "../../../gpu-backend/training/random.ts";

const seed = 8;
const random = new Random(seed, 0);
const [D, V] = [6, 11];
const shape: FullShape = { dimensions: 5, hidden: [7, 4], rank: 2 };
const head = { hiddenSize: D, vocabularySize: V, tokenEmbedding: normals(V * D, 0.5) };
const windowOf = Int32Array.of(0, 0, 0, 1, 1, 2, 2);
const N = windowOf.length;
const hidden = normals(N * D, 1);
const targets = Int32Array.from({ length: N }, () => random.integer(V));
/** Windows 0 and 1 are of one batch. */
const windows = [0, 0, 1].map((batch, index) => ({
  index,
  cluster: 0,
  batch,
  embedding: normals(shape.dimensions, 0.4),
}));

function normals(length: number, deviation: number): Float32Array {
  return Float32Array.from({ length }, () => deviation * random.normal());
}

/** Mean loss in float64, from serving's pairs; without dropout. */
function referenceLoss(parameters: Parameters): number {
  const pairs = windows.map(({ embedding }) => wholePair(fullNetwork(head, shape, parameters), embedding));
  let loss = 0;
  for (let n = 0; n < N; n++) {
    const { rank, a, b } = pairs[windowOf[n]];
    const dot = (weights: Float32Array, row: number) => {
      let sum = 0;
      for (let d = 0; d < D; d++) sum += weights[row * D + d] * hidden[n * D + d];
      return sum;
    };
    const u = Array.from({ length: rank }, (_, r) => dot(a, r));
    const logits = Array.from({ length: V }, (_, v) =>
      u.reduce((sum, x, r) => sum + x * b[r * V + v], dot(head.tokenEmbedding, v)),
    );
    loss += (Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0)) - logits[targets[n]]) / N;
  }
  return loss;
}

async function lossAndGradients(dropout: number, stepSeed: number) {
  const kind = fullKind(head, shape, { dropout, zeroStart: false });
  const parameters = kind.initial(seed);
  const session = await openSession(kind.graph(), { threads: 1 });
  const results = await session.run({
    ...Object.fromEntries([...parameters].map(([name, values]) => [name, tensor(values, kind.shapeOf(name))])),
    ...kind.feeds({ windows, windowOf, stepSeed }),
    hidden: tensor(hidden, [N, D]),
    targets: tensor(targets, [N]),
    weight: tensor(Float32Array.of(1 / N), []),
  });
  await session.release();
  const nll = results.nll.data as Float32Array;
  const gradientOf = (name: ParameterName) => results[`d_${name}`].data as Float32Array;
  return { parameters, nll, gradientOf, loss: nll.reduce((sum, x) => sum + x / N, 0) };
}

test("loss and every gradient agree with serving's pairs and finite differences", async () => {
  const { parameters, loss, gradientOf } = await lossAndGradients(0, 1);
  expect(loss).toBeCloseTo(referenceLoss(parameters), 5);
  const step = 1e-3; // a larger one would cross kinks of the rectifiers
  const tolerance = 2e-3;
  for (const [name, values] of parameters) {
    const gradient = gradientOf(name);
    expect(gradient.length).toBe(values.length);
    let [difference, largest] = [0, 0];
    for (let i = 0; i < values.length; i++) {
      const original = values[i];
      const lossAt = (value: number) => {
        values[i] = value;
        return referenceLoss(parameters);
      };
      const slope = (lossAt(original + step) - lossAt(original - step)) / (2 * step);
      values[i] = original;
      difference = Math.max(difference, Math.abs(slope - gradient[i]));
      largest = Math.max(largest, Math.abs(slope));
    }
    const relative = difference / largest;
    console.log(
      `seed ${seed}: d_${name}: max difference ${relative.toExponential(1)} of the largest, tolerance ${tolerance}`,
    );
    expect(relative).toBeLessThan(tolerance);
  }
});

test("dropout is drawn by step and batch, and leaves the mean of a layer where it was", async () => {
  const [one, same, other] = await Promise.all([
    lossAndGradients(0.5, 1),
    lossAndGradients(0.5, 1),
    lossAndGradients(0.5, 2),
  ]);
  expect(same.nll).toEqual(one.nll);
  expect(other.nll).not.toEqual(one.nll);
  const kind = fullKind(head, { ...shape, hidden: [400, 200] }, { dropout: 0.25, zeroStart: false });
  const { m1 } = kind.feeds({ windows, windowOf, stepSeed: 3 });
  const masks = m1.data as Float32Array;
  expect(masks.slice(0, 400)).toEqual(masks.slice(400, 800)); // one batch, one adapter
  expect(masks.slice(0, 400)).not.toEqual(masks.slice(800));
  expect(masks.reduce((sum, x) => sum + x, 0) / masks.length).toBeCloseTo(1, 1);
});

test("with a zero start the delta is zero", async () => {
  const kind = fullKind(head, shape, { dropout: 0, zeroStart: true });
  const { b } = wholePair(fullNetwork(head, shape, kind.initial(seed)), windows[0].embedding);
  expect(b.every((x) => x === 0)).toBe(true);
});
