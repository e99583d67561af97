/** Chooses each centroid's scale on validation and measures the result on test, assigning as the edge does. */
import type { CentroidVectors } from "../../../shared/math/assignment.ts";
import { gatesOf } from "../../adapters/generated/hyper-network.ts";
import { assignAll } from "../clustering/placement.ts";
import { documentKey, scoredTokens, targetsOf } from "../corpus/windows.ts";
import type { PlacedSet, WindowSet } from "../hidden-states.ts";
import { chooseScale, type ScaleTrial, scaleChoices, type WindowLoss } from "./gain.ts";
import type { ServedParameters } from "./parameters.ts";
import type { Reader } from "./reader.ts";

/** An adapter per centroid. */
export interface Adapters extends ServedParameters {
  centroids: CentroidVectors;
}

/** Gates of centroid k at a scale, [Q], by the code that serves them; scale 0 is the static adapter alone. */
export function gatesAt({ network, centroids }: Adapters, k: number, scale: number): Float32Array {
  const { dimensions: P, vectors } = centroids;
  return gatesOf(network, vectors.subarray(k * P, (k + 1) * P), scale);
}

/** Sum of negative log-likelihoods of each window's scored tokens, in nats. `gatesOf` [Q] of a window; zeros give the base. */
export async function lossesOf(
  reader: Reader,
  { windows, statesOf }: WindowSet,
  gatesOf: (index: number) => Float32Array,
): Promise<number[]> {
  const losses: number[] = [];
  for (const [i, window] of windows.entries()) {
    const { logprobs } = await reader.read(statesOf(window), gatesOf(i), targetsOf(window));
    losses.push(logprobs.reduce((sum, logprob) => sum - logprob, 0));
  }
  return losses;
}

/** Scale per centroid [K], chosen on `validation`: how much of what is generated is added to the static adapter. */
export async function chooseScales(reader: Reader, validation: PlacedSet, adapters: Adapters): Promise<Float32Array> {
  const memberOf = assignAll(validation.embeddings, adapters.centroids);
  const K = adapters.centroids.count;
  const { windows } = validation;
  const trials = Array.from({ length: K }, () => new Map<number, ScaleTrial>()); // by corpus
  for (const [choice, scale] of scaleChoices.entries()) {
    const gates = Array.from({ length: K }, (_, k) => gatesAt(adapters, k, scale));
    const sums = await lossesOf(reader, validation, (i) => gates[memberOf[i]]);
    for (const i of windows.keys()) {
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

/** A window's losses, also under the static adapter, and the centroid that served it. */
export interface AssignedLoss extends WindowLoss {
  fixed: number;
  corpus: number;
  centroid: number;
}

/** Losses of every window of `set`, under the base, the static adapter, and its centroid's adapter at its scale. */
export async function measureWindows(
  reader: Reader,
  set: PlacedSet,
  adapters: Adapters,
  scales: Float32Array,
): Promise<AssignedLoss[]> {
  const memberOf = assignAll(set.embeddings, adapters.centroids);
  const closed = new Float32Array(adapters.bank.gates);
  const base = await lossesOf(reader, set, () => closed);
  const fixed = await lossesOf(reader, set, () => adapters.network.staticGates);
  const gates = Array.from(scales, (scale, k) => gatesAt(adapters, k, scale));
  const adapted = await lossesOf(reader, set, (i) => gates[memberOf[i]]);
  return set.windows.map((window, i) => ({
    corpus: window.corpus,
    document: documentKey(window),
    tokens: scoredTokens(window),
    centroid: memberOf[i],
    base: base[i],
    fixed: fixed[i],
    adapted: adapted[i],
  }));
}

/** Perplexity of summed losses. */
export function perplexityOf(losses: readonly WindowLoss[], of: "base" | "adapted"): number {
  const sum = (part: "base" | "adapted" | "tokens") => losses.reduce((total, loss) => total + loss[part], 0);
  return Math.exp(sum(of) / sum("tokens"));
}
