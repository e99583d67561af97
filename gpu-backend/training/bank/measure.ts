/** Chooses each centroid's scale on validation and measures the result on test, assigning as the edge does. */
import type { CentroidVectors } from "../../../shared/math/assignment.ts";
import { gatesOf, readHyperNetwork } from "../../adapters/hyper-network.ts";
import { scoredTokens } from "../corpus/windows.ts";
import { assignAll } from "../embed.ts";
import type { WindowSet } from "./batches.ts";
import { chooseScale, type ScaleTrial, scaleChoices, type WindowLoss } from "./gain.ts";
import type { LossMeter } from "./loss.ts";
import { type BankShape, type Parameters, parameterTensors } from "./parameters.ts";
import type { HeadWeights } from "./training-graph.ts";

/** An adapter per centroid: what is measured. */
export interface Adapters {
  parameters: Parameters;
  centroids: CentroidVectors;
  /** Gates of centroid k at a scale, [Q]; scale 0 is the base. */
  gatesAt(k: number, scale: number): Float32Array;
}

/** The adapters that the hyper-network makes, by the very code that serves them. */
export function hyperNetworkAdapters(
  head: HeadWeights,
  shape: BankShape,
  parameters: Parameters,
  centroids: CentroidVectors,
): Adapters {
  const { dimensions: P, vectors } = centroids;
  const network = readHyperNetwork(parameterTensors(parameters, shape, head.hiddenSize, head.vocabularySize));
  const gatesAt = (k: number, scale: number) => gatesOf(network, vectors.subarray(k * P, (k + 1) * P), scale);
  return { parameters, centroids, gatesAt };
}

/** One adapter for all text: every gate at the scale itself. */
export function staticAdapter(shape: BankShape, parameters: Parameters): Adapters {
  const P = shape.dimensions;
  return {
    parameters,
    centroids: { count: 1, dimensions: P, vectors: new Float32Array(P) },
    gatesAt: (_, scale) => new Float32Array(shape.gates).fill(scale),
  };
}

/** Scale per centroid [K], chosen on `validation`. */
export async function chooseScales(meter: LossMeter, validation: WindowSet, adapters: Adapters): Promise<Float32Array> {
  const K = adapters.centroids.count;
  const { windows, embeddings } = validation;
  const indexes = [...windows.keys()];
  const memberOf = assignAll(embeddings, adapters.centroids);
  const trials = Array.from({ length: K }, () => new Map<number, ScaleTrial>()); // by corpus
  for (const [choice, scale] of scaleChoices.entries()) {
    const gates = Array.from({ length: K }, (_, k) => adapters.gatesAt(k, scale));
    const sums = await meter.measure(validation, indexes, adapters.parameters, (i) => gates[memberOf[i]]);
    for (const i of indexes) {
      const ofCentroid = trials[memberOf[i]];
      const trial = ofCentroid.get(windows[i].corpus) ?? { tokens: 0, losses: scaleChoices.map(() => 0) };
      ofCentroid.set(windows[i].corpus, trial);
      if (choice === 0) trial.tokens += scoredTokens(windows[i]);
      trial.losses[choice] += sums[i];
    }
  }
  return Float32Array.from(trials, (ofCentroid) => chooseScale([...ofCentroid.values()]));
}

/** A window's losses and the centroid that served it. */
export interface AssignedLoss extends WindowLoss {
  corpus: number;
  centroid: number;
}

/** Losses of every window of `set`, under the base and under its centroid's adapter at its scale. */
export async function measureWindows(
  meter: LossMeter,
  set: WindowSet,
  adapters: Adapters,
  scales: Float32Array,
): Promise<AssignedLoss[]> {
  const indexes = [...set.windows.keys()];
  const memberOf = assignAll(set.embeddings, adapters.centroids);
  const base = adapters.gatesAt(0, 0);
  const gates = Array.from(scales, (scale, k) => adapters.gatesAt(k, scale));
  const baseSums = await meter.measure(set, indexes, adapters.parameters, () => base);
  const adaptedSums = await meter.measure(set, indexes, adapters.parameters, (i) => gates[memberOf[i]]);
  return set.windows.map((window, i) => ({
    corpus: window.corpus,
    document: `${window.corpus}/${window.document}`,
    tokens: scoredTokens(window),
    centroid: memberOf[i],
    base: baseSums[i],
    adapted: adaptedSums[i],
  }));
}

/** Perplexity of summed losses. */
export function perplexityOf(losses: readonly WindowLoss[], of: "base" | "adapted"): number {
  let nats = 0;
  let tokens = 0;
  for (const loss of losses) {
    nats += loss[of];
    tokens += loss.tokens;
  }
  return Math.exp(nats / tokens);
}
