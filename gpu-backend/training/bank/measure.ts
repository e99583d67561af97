/** Chooses each centroid's scale on validation text and measures gains on test text. */
import type { CentroidVectors } from "../../../shared/math/assignment.ts";
import { gatesOf } from "../../adapters/generated/hyper-network.ts";
import { assignAll } from "../clustering/placement.ts";
import { documentKey, scoredTokens, targetsOf } from "../corpus/windows.ts";
import type { PlacedSet, WindowSet } from "../hidden-states.ts";
import { chooseScale, type ScaleTrial, scaleChoices, type WindowLoss } from "./gain.ts";
import type { ServedParameters } from "./parameters.ts";
import type { Reader } from "./reader.ts";

export interface Adapters extends ServedParameters {
  centroids: CentroidVectors;
}

/** Returns gates [Q]. Scale 0 gives the static adapter's gates. */
export function gatesAt({ network, centroids }: Adapters, k: number, scale: number): Float32Array {
  const { dimensions: P, vectors } = centroids;
  return gatesOf(network, vectors.subarray(k * P, (k + 1) * P), scale);
}

/** Losses in nats, summed over a window's scored tokens. `gatesOf` returns a window's gates [Q]; zeros are the base. */
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

export function documentsByCentroid({ windows, embeddings }: PlacedSet, centroids: CentroidVectors): number[] {
  const documents = Array.from({ length: centroids.count }, () => new Set<string>());
  for (const [i, k] of assignAll(embeddings, centroids).entries()) documents[k].add(documentKey(windows[i]));
  return documents.map(({ size }) => size);
}

/** Measures the base, the static adapter (`fixed`), and the adapter of the window's centroid. */
export async function measureWindows(reader: Reader, set: PlacedSet, adapters: Adapters, scales: Float32Array) {
  const memberOf = assignAll(set.embeddings, adapters.centroids);
  const closed = new Float32Array(adapters.bank.gates);
  const base = await lossesOf(reader, set, () => closed);
  const fixed = await lossesOf(reader, set, () => adapters.network.staticGates);
  const gates = Array.from(scales, (scale, k) => gatesAt(adapters, k, scale));
  const adapted = await lossesOf(reader, set, (i) => gates[memberOf[i]]);
  return set.windows.map((window, i) => ({
    ...{ document: documentKey(window), tokens: scoredTokens(window), centroid: memberOf[i] },
    ...{ base: base[i], fixed: fixed[i], adapted: adapted[i] },
  }));
}

export function perplexityOf(losses: readonly WindowLoss[], of: "base" | "adapted"): number {
  const sum = (part: "base" | "adapted" | "tokens") => losses.reduce((total, loss) => total + loss[part], 0);
  return Math.exp(sum(of) / sum("tokens"));
}
