/** Chooses each centroid's scale on validation and measures the result on test, assigning as the edge does. */
import type { CentroidVectors } from "../../../shared/math/assignment.ts";
import { gatesOf, readHyperNetwork } from "../../adapters/generated/hyper-network.ts";
import { assignAll } from "../clustering/placement.ts";
import { documentKey, scoredTokens } from "../corpus/windows.ts";
import type { PlacedSet, WindowSet } from "./batches.ts";
import { chooseScale, type ScaleTrial, scaleChoices, type WindowLoss } from "./gain.ts";
import type { LossMeter } from "./loss.ts";
import { type BankShape, type Parameters, parameterTensors } from "./parameters.ts";
import type { HeadWeights } from "./training-graph.ts";

/** An adapter per centroid. */
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

/** Scale per centroid [K], chosen on `validation`. */
export async function chooseScales(meter: LossMeter, validation: PlacedSet, adapters: Adapters): Promise<Float32Array> {
  const memberOf = assignAll(validation.embeddings, adapters.centroids);
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
  const gates = Array.from(scales, (scale, k) => adapters.gatesAt(k, scale));
  const adapted = await meter.measure(set, indexes, adapters.parameters, (i) => gates[memberOf[i]]);
  return set.windows.map((window, i) => ({
    corpus: window.corpus,
    document: documentKey(window),
    tokens: scoredTokens(window),
    centroid: memberOf[i],
    base: base[i],
    adapted: adapted[i],
  }));
}

/** Summed losses under the base, in nats, [indexes]. */
export function baseLosses(
  meter: LossMeter,
  set: WindowSet,
  parameters: Parameters,
  indexes: readonly number[],
): Promise<Float64Array> {
  const closed = new Float32Array(meter.gates);
  return meter.measure(set, indexes, parameters, () => closed);
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
