/**
 * Checks hyper-network.safetensors against its manifest: every tensor that serving reads exists and has the shape that the
 * manifest implies. Checks the header only; `requireFloats` checks values.
 */
import { hyperNetworkFile, type Manifest } from "../../../shared/artifacts/manifest.ts";
import { requireTensor, type TensorFile } from "../../../shared/artifacts/tensor-file.ts";

/** Throws an Error that names the tensor, its shape and the one that is expected. */
export function requireHyperNetwork(manifest: Manifest, file: TensorFile): void {
  const { centroids, embedding } = manifest;
  const K = centroids.length;
  const shapes = { ...layerShapes(manifest), centroids: [K, embedding.dimensions], scales: [K] };
  for (const [name, shape] of Object.entries(shapes)) requireTensor(file, name, "F32", shape, hyperNetworkFile);
}

function layerShapes({ hyperNetwork, embedding, model }: Manifest): Record<string, number[]> {
  const { dimensions: P } = embedding;
  const { hiddenSize: D, vocabularySize: V } = model;
  const H = hyperNetwork.hidden;
  const Q = hyperNetwork.rank + hyperNetwork.biases;
  return { w1: [H, P], b1: [H], w2: [Q, H], b2: [Q], a: [Q, D], a0: [Q], b: [Q, V] };
}
