import { afterAll, beforeAll, expect, test } from "vitest";
import { openSession, type Session, type Tensor, tensor } from "../../../gpu-backend/runtime/session.ts";
import {
  bankShape,
  initialParameters,
  type ParameterName,
  shapeOf,
} from "../../../gpu-backend/training/bank/parameters.ts";
import { buildLossGraph, buildTrainingGraph } from "../../../gpu-backend/training/bank/training-graph.ts";
import { Random } from "../../../gpu-backend/training/random.ts";

const seed = 5;
const random = new Random(seed, 0);
const [D, V] = [6, 11];
const shape = bankShape({ rank: 3, biases: 2, hidden: 4, dimensions: 5 });
const head = { hiddenSize: D, vocabularySize: V, tokenEmbedding: normals(V * D, 0.5) };
const windowOf = Int32Array.of(0, 0, 0, 1, 1, 2, 2, 2, 2);
const [N, S] = [windowOf.length, 3];
const hidden = normals(N * D, 1);
const targets = Int32Array.from({ length: N }, () => random.integer(V));
const embeddings = normals(S * shape.dimensions, 0.4);

function normals(length: number, deviation: number): Float32Array {
  return Float32Array.from({ length }, () => deviation * random.normal());
}

const parameters = initialParameters(shape, D, V, seed);
// Away from the start, where B = 0 would make most gradients vanish.
for (const [name, values] of parameters) {
  const rows = name === "a" ? shape.rank * D : values.length;
  for (let i = 0; i < rows; i++) values[i] += 0.3 * random.normal();
}

let training: Session;
beforeAll(async () => {
  training = await openSession(buildTrainingGraph(head, shape), { threads: 1 });
});
afterAll(() => training.release());

function feeds(): Record<string, Tensor> {
  const named = [...parameters].map(([name, values]) => [name, tensor(values, shapeOf(name, shape, D, V))]);
  return {
    ...Object.fromEntries(named),
    hidden: tensor(hidden, [N, D]),
    targets: tensor(targets, [N]),
    weight: tensor(Float32Array.of(1 / N), []),
    window_of: tensor(windowOf, [N]),
    embeddings: tensor(embeddings, [S, shape.dimensions]),
  };
}

/** The loss in float64, written from the formulas of the paper and method, not from the graph. */
function referenceLosses(gated: boolean): number[] {
  const { gates: Q, hidden: H, dimensions: P, a0 } = shape;
  const at = (name: ParameterName) => parameters.get(name)!;
  const gelu = (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
  const range = (n: number) => Array.from({ length: n }, (_, i) => i);
  const dot = (n: number, f: (i: number) => number) => range(n).reduce((sum, i) => sum + f(i), 0);
  const gatesOf = range(S).map((s) => {
    const z = range(H).map((h) =>
      gelu(at("b1")[h] + dot(P, (p) => at("w1")[h * P + p] * Math.sqrt(P) * embeddings[s * P + p])),
    );
    return range(Q).map((q) => (gated ? at("b2")[q] + dot(H, (h) => at("w2")[q * H + h] * z[h]) : 1));
  });
  return range(N).map((n) => {
    const u = range(Q).map(
      (q) => (a0[q] + dot(D, (d) => at("a")[q * D + d] * hidden[n * D + d])) * gatesOf[windowOf[n]][q],
    );
    const logits = range(V).map(
      (v) =>
        dot(D, (d) => head.tokenEmbedding[v * D + d] * hidden[n * D + d]) + dot(Q, (q) => at("b")[q * V + v] * u[q]),
    );
    return Math.log(dot(V, (v) => Math.exp(logits[v]))) - logits[targets[n]];
  });
}

const mean = (values: number[]) => values.reduce((sum, x) => sum + x, 0) / values.length;

test("the graph's loss is the formula's", async () => {
  const { nll } = await training.run(feeds());
  const difference = Math.max(...referenceLosses(true).map((x, n) => Math.abs(x - (nll.data as Float32Array)[n])));
  expect(difference, `seed ${seed}`).toBeLessThan(1e-5);
});

test("every gradient agrees with finite differences", async () => {
  const step = 1e-3; // in float64 through the formula: float32 only rounds the parameters
  const tolerance = 1e-3;
  const results = await training.run(feeds());
  for (const [name, values] of parameters) {
    const gradient = results[`d_${name}`].data as Float32Array;
    expect(gradient.length).toBe(values.length);
    let [difference, largest] = [0, 0];
    for (let i = 0; i < values.length; i++) {
      // Bias directions have no row of A: what sits there is zero and must stay so.
      if (name === "a" && i >= shape.rank * D) {
        expect(Math.abs(gradient[i])).toBe(0);
        continue;
      }
      const original = values[i];
      values[i] = original + step;
      const above = values[i];
      const lossAbove = mean(referenceLosses(true));
      values[i] = original - step;
      const slope = (lossAbove - mean(referenceLosses(true))) / (above - values[i]);
      values[i] = original;
      difference = Math.max(difference, Math.abs(slope - gradient[i]));
      largest = Math.max(largest, Math.abs(slope));
    }
    expect(difference, `d_${name}`).toBeLessThan(tolerance * largest);
  }
});

test("the forward-only graph measures the same loss under the same gates", async () => {
  const meter = await openSession(buildLossGraph(head, shape), { threads: 1 });
  const { nll } = await meter.run({
    hidden: tensor(hidden, [N, D]),
    targets: tensor(targets, [N]),
    gates: tensor(new Float32Array(N * shape.gates).fill(1), [N, shape.gates]),
    a: tensor(parameters.get("a")!, [shape.gates, D]),
    b: tensor(parameters.get("b")!, [shape.gates, V]),
  });
  const expected = referenceLosses(false);
  expected.forEach((x, n) => {
    expect((nll.data as Float32Array)[n]).toBeCloseTo(x, 5);
  });
  await meter.release();
});
