/** Chooses each centroid's scale on validation and measures the result on test, assigning as the edge does. */
import type { CentroidVectors } from "../../../shared/math/assignment.ts";
import type { Directions } from "../../adapters/adapter.ts";
import { directionsOf, type FullNetwork } from "../../adapters/full-network.ts";
import { gatesOf, readHyperNetwork } from "../../adapters/hyper-network.ts";
import { documentKey, scoredTokens } from "../corpus/windows.ts";
import { assignAll } from "../embed.ts";
import type { PlacedSet, WindowSet } from "./batches.ts";
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

/** The low-rank pairs that the full kind makes of the centroids, one under the other, by the very code that serves them. */
export function fullAdapters(network: FullNetwork, centroids: CentroidVectors): Adapters {
  const { rank: R, hiddenSize: D, vocabularySize: V } = network;
  const { count: K, dimensions: P, vectors } = centroids;
  const a = new Float32Array(K * R * D);
  const b = new Float32Array(K * R * V);
  for (let k = 0; k < K; k++) {
    const pair = wholePair(network, vectors.subarray(k * P, (k + 1) * P));
    a.set(pair.a, k * R * D);
    b.set(pair.b, k * R * V);
  }
  const gatesAt = (k: number, scale: number) => new Float32Array(K * R).fill(scale, k * R, (k + 1) * R);
  return {
    parameters: new Map([
      ["a", a],
      ["b", b],
    ]),
    centroids,
    gatesAt,
  };
}

/** The pair that the full kind makes of one input [P], at full strength. */
export function wholePair(network: FullNetwork, input: Float32Array): Directions {
  const slices = directionsOf(network, input, 1);
  for (;;) {
    const { done, value } = slices.next();
    if (done) return value;
  }
}

/** Scale per centroid [K], chosen on `validation`; `memberOf` says which adapter serves a window, the nearest unless given. */
export async function chooseScales(
  meter: LossMeter,
  validation: PlacedSet,
  adapters: Adapters,
  memberOf = assignAll(validation.embeddings, adapters.centroids),
): Promise<Float32Array> {
  const K = adapters.centroids.count;
  const { windows } = validation;
  const indexes = [...windows.keys()];
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

/** How many documents of `set` each centroid serves, [K]. */
export function documentsByCentroid({ windows, embeddings }: PlacedSet, centroids: CentroidVectors): number[] {
  const documents = Array.from({ length: centroids.count }, () => new Set<string>());
  for (const [i, k] of assignAll(embeddings, centroids).entries()) documents[k].add(documentKey(windows[i]));
  return documents.map(({ size }) => size);
}

/** A window's losses and the centroid that served it. */
export interface AssignedLoss extends WindowLoss {
  corpus: number;
  centroid: number;
}

/** Losses of every window of `set`, under the base and under its centroid's adapter at its scale. */
export async function measureWindows(
  meter: LossMeter,
  set: PlacedSet,
  adapters: Adapters,
  scales: Float32Array,
): Promise<AssignedLoss[]> {
  const indexes = [...set.windows.keys()];
  const memberOf = assignAll(set.embeddings, adapters.centroids);
  const base = await baseLosses(meter, set, adapters.parameters, indexes);
  const adapted = await adaptedLosses(meter, set, adapters, scales, memberOf, indexes);
  return set.windows.map((window, i) => ({
    corpus: window.corpus,
    document: documentKey(window),
    tokens: scoredTokens(window),
    centroid: memberOf[i],
    base: base[i],
    adapted: adapted[i],
  }));
}

/** Summed losses under the base, [indexes]. */
export function baseLosses(
  meter: LossMeter,
  set: WindowSet,
  parameters: Parameters,
  indexes: readonly number[],
  skipped = 0,
): Promise<Float64Array> {
  const closed = new Float32Array(meter.gates);
  return meter.measure(set, indexes, parameters, () => closed, skipped);
}

/** Summed losses under the adapters of the centroids [set's windows] at their scales [K], [indexes]. */
export function adaptedLosses(
  meter: LossMeter,
  set: PlacedSet,
  adapters: Adapters,
  scales: Float32Array,
  memberOf: Int32Array,
  indexes: readonly number[],
  skipped = 0,
): Promise<Float64Array> {
  const gates = Array.from(scales, (scale, k) => adapters.gatesAt(k, scale));
  return meter.measure(set, indexes, adapters.parameters, (i) => gates[memberOf[i]], skipped);
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
