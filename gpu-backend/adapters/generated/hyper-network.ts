/** Shapes: P prompt embedding, H hidden units, Q gates, D hidden size, K centroids. */
import { hyperNetworkFile, type Manifest } from "../../../shared/artifacts/manifest.ts";
import { requireFloats, requireTensor, type TensorFile, tensorOf } from "../../../shared/artifacts/tensor-file.ts";
import type { Bank } from "../../runtime/step.ts";

export type HyperNetwork = ReturnType<typeof readHyperNetwork>;

/** `file` is hyper-network.safetensors. Throws an Error that names the faulty tensor. */
export function readHyperNetwork(file: TensorFile) {
  const [hidden, dimensions] = tensorOf(file, "w1").shape;
  const [gates] = tensorOf(file, "w2").shape;
  return {
    dimensions, // P
    hidden, // H
    gates, // Q
    w1: floatsOf(file, "w1", [hidden, dimensions]),
    b1: floatsOf(file, "b1", [hidden]),
    w2: floatsOf(file, "w2", [gates, hidden]),
    b2: floatsOf(file, "b2", [gates]),
    staticGates: floatsOf(file, "static_gates", [gates]),
  };
}

export function bankOf(file: TensorFile): Bank {
  const [gates, hiddenSize] = tensorOf(file, "a").shape;
  return {
    gates,
    a: floatsOf(file, "a", [gates, hiddenSize]),
    a0: floatsOf(file, "a0", [gates]),
    b: floatsOf(file, "b", [gates, hiddenSize]),
  };
}

/** The gates [Q] of a centroid c [P]: s + scale · (W₂·gelu(W₁·(√P·c) + b₁) + b₂), where s are the static adapter's gates. */
export function gatesOf(network: HyperNetwork, centroid: Float32Array, scale: number): Float32Array<ArrayBuffer> {
  const { dimensions: P, hidden: H, gates: Q, w1, b1, w2, b2, staticGates } = network;
  if (centroid.length !== P) throw new Error(`centroid of ${centroid.length} dimensions, the hyper-network takes ${P}`);
  const result = Float32Array.from(staticGates);
  if (scale === 0) return result;
  const activations = new Float64Array(H);
  for (let h = 0; h < H; h++) {
    let sum = 0;
    for (let p = 0; p < P; p++) sum += w1[h * P + p] * centroid[p];
    activations[h] = geluTanh(sum * Math.sqrt(P) + b1[h]);
  }
  for (let q = 0; q < Q; q++) {
    let sum = b2[q];
    for (let h = 0; h < H; h++) sum += w2[q * H + h] * activations[h];
    result[q] += scale * sum;
  }
  return result;
}

function geluTanh(x: number): number {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

function floatsOf(file: TensorFile, name: string, shape: number[]): Float32Array {
  return requireFloats(file, name, shape, hyperNetworkFile);
}

export function requireHyperNetwork(manifest: Manifest, file: TensorFile): void {
  const [K, P, D] = [manifest.centroids.length, manifest.embedding.dimensions, manifest.model.hiddenSize];
  const { hidden: H, rank, biases } = manifest.hyperNetwork;
  const Q = rank + biases;
  const shapes = {
    ...{ w1: [H, P], b1: [H], w2: [Q, H], b2: [Q], a: [Q, D], a0: [Q], b: [Q, D], static_gates: [Q] },
    ...{ centroids: [K, P], scales: [K] },
  };
  for (const [name, shape] of Object.entries(shapes)) requireTensor(file, name, "F32", shape, hyperNetworkFile);
}
