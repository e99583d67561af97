import { expect, test } from "vitest";
import { openSession, tensor } from "../../../gpu-backend/runtime/session.ts";
import type { Bank } from "../../../gpu-backend/runtime/step.ts";
import { layersOf } from "../../../gpu-backend/training/bank/network-pass.ts";
import {
  type BankShape,
  bankShape,
  initialParameters,
  type ParameterName,
  type Parameters,
  zerosLike,
} from "../../../gpu-backend/training/bank/parameters.ts";
import { hyperNetworkPass } from "../../../gpu-backend/training/bank/trainer.ts";
import { buildTrainingGraph } from "../../../gpu-backend/training/bank/training-graph.ts";
import { Random } from "../../../gpu-backend/training/random.ts";

const seed = 5;
const random = new Random(seed, 0);
const [D, V] = [6, 11];
const head = { hiddenSize: D, vocabularySize: V, tokenEmbedding: normals(V * D, 0.5) };
const windowOf = Int32Array.of(0, 0, 0, 1, 1, 2, 2, 2, 2);
const [N, S, P] = [windowOf.length, 3, 5];
const hidden = normals(N * D, 1);
const embeddings = normals(S * P, 0.4);
const targets = Int32Array.from({ length: N }, () => random.integer(V));

const staticShape = bankShape({ rank: 2, biases: 1 });
const networkShape = bankShape({ rank: 3, biases: 2, hidden: 4, dimensions: P });
const above = bankOf(staticShape, movedParameters(staticShape));

function normals(length: number, deviation: number): Float32Array {
  return Float32Array.from({ length }, () => deviation * random.normal());
}

/** Parameters away from the start, where B = 0 would make most gradients vanish. */
function movedParameters(shape: BankShape): Parameters {
  const parameters = initialParameters(shape, D, seed);
  for (const [name, values] of parameters) {
    const rows = name === "a" ? shape.rank * D : values.length;
    for (let i = 0; i < rows; i++) values[i] += 0.3 * random.normal();
  }
  return parameters;
}

function bankOf({ gates, a0 }: BankShape, parameters: Parameters): Bank {
  return { gates, a0, a: parameters.get("a")!, b: parameters.get("b")! };
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);
const dot = (n: number, f: (i: number) => number) => range(n).reduce((sum, i) => sum + f(i), 0);
const logitOf = (v: number, x: ArrayLike<number>) => dot(D, (d) => head.tokenEmbedding[v * D + d] * x[d]);
const stateOf = (n: number) => hidden.subarray(n * D, (n + 1) * D);

/** Bᵀ((A·h + a0) ⊙ gates), [D] */
function delta({ gates: Q, a, a0, b }: Bank, h: Float32Array, gates: readonly number[]): number[] {
  const u = range(Q).map((q) => (a0[q] + dot(D, (d) => a[q * D + d] * h[d])) * gates[q]);
  return range(D).map((d) => dot(Q, (q) => b[q * D + d] * u[q]));
}

/** The loss in float64, written from the formulas of the paper and method, not from the graph. */
function referenceLosses(shape: BankShape, parameters: Parameters): number[] {
  const { gates: Q, hidden: H } = shape;
  const at = (name: ParameterName) => parameters.get(name)!;
  const gelu = (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
  const gatesOf = range(S).map((s) => {
    if (H === 0) return range(Q).map(() => 1);
    const z = range(H).map((h) =>
      gelu(at("b1")[h] + dot(P, (p) => at("w1")[h * P + p] * Math.sqrt(P) * embeddings[s * P + p])),
    );
    return range(Q).map((q) => at("b2")[q] + dot(H, (h) => at("w2")[q * H + h] * z[h]));
  });
  return range(N).map((n) => {
    const h = stateOf(n);
    const own = delta(bankOf(shape, parameters), h, gatesOf[windowOf[n]]);
    const under =
      H === 0
        ? own.map(() => 0)
        : delta(
            above,
            h,
            range(above.gates).map(() => 1),
          );
    const adapted = range(D).map((d) => h[d] + own[d] + under[d]);
    const sum = dot(V, (v) => Math.exp(logitOf(v, adapted)));
    return Math.log(sum) - logitOf(targets[n], adapted);
  });
}

const mean = (values: number[]) => values.reduce((sum, x) => sum + x, 0) / values.length;

const cases = [
  { name: "a static adapter", shape: staticShape },
  { name: "a hyper-network", shape: networkShape },
];

/** Losses and gradients of one step, through the hyper-network, if the shape has one, and the training graph. */
async function computed(shape: BankShape, parameters: Parameters) {
  const { gates: Q } = shape;
  const inputs = range(S).map((s) => embeddings.subarray(s * P, (s + 1) * P));
  const passes = shape.hidden > 0 ? inputs.map((input) => hyperNetworkPass(parameters, input)) : [];
  const ofRows = new Float32Array(N * Q).fill(1);
  for (const [n, s] of windowOf.entries()) if (passes[s]) ofRows.set(passes[s].output, n * Q);
  const graph = buildTrainingGraph(head, shape.a0, shape.hidden > 0 ? above : null);
  const training = await openSession(graph, { threads: 1 });
  const results = await training.run({
    ...{ a: tensor(parameters.get("a")!, [Q, D]), b: tensor(parameters.get("b")!, [Q, D]) },
    ...{ hidden: tensor(hidden, [N, D]), targets: tensor(targets, [N, 1]), gates: tensor(ofRows, [N, Q]) },
    weight: tensor(Float32Array.of(1 / N), []),
  });
  await training.release();
  const of = (name: string) => results[name].data as Float32Array;
  const dGates = new Float32Array(S * Q);
  for (const [i, x] of of("d_gates").entries()) dGates[windowOf[Math.floor(i / Q)] * Q + (i % Q)] += x;
  const gradients = zerosLike(parameters).set("a", of("d_a")).set("b", of("d_b"));
  for (const [s, { backward }] of passes.entries()) {
    backward(dGates.subarray(s * Q, (s + 1) * Q), layersOf(gradients, 2));
  }
  return { nll: of("nll"), gradients };
}

test.each(cases)("loss and gradients of $name agree with the formula and its differences", async (one) => {
  const { shape } = one;
  const parameters = movedParameters(shape);
  const { nll, gradients } = await computed(shape, parameters);
  const losses = referenceLosses(shape, parameters);
  const apart = Math.max(...losses.map((x, n) => Math.abs(x - nll[n])));
  expect(apart, `seed ${seed}`).toBeLessThan(1e-5);

  const step = 1e-3; // in float64 through the formula: float32 only rounds the parameters
  const tolerance = 1e-3;
  for (const [name, values] of parameters) {
    const gradient = gradients.get(name)!;
    expect(gradient.length).toBe(values.length);
    let [difference, largest] = [0, 0];
    for (let i = 0; i < values.length; i++) {
      // Bias directions have no row of A: the numbers in its place are zero and must stay zero.
      if (name === "a" && i >= shape.rank * D) {
        expect(Math.abs(gradient[i])).toBe(0);
        continue;
      }
      const original = values[i];
      values[i] = original + step;
      const above = values[i];
      const lossAbove = mean(referenceLosses(shape, parameters));
      values[i] = original - step;
      const slope = (lossAbove - mean(referenceLosses(shape, parameters))) / (above - values[i]);
      values[i] = original;
      difference = Math.max(difference, Math.abs(slope - gradient[i]));
      largest = Math.max(largest, Math.abs(slope));
    }
    expect(difference, `d_${name}, seed ${seed}`).toBeLessThan(tolerance * largest);
  }
});
