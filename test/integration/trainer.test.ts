/** The trainer on clusters with a vocabulary each: the hyper-network learns what the static adapter cannot. */
import { expect, test } from "vitest";
import { gatesOf } from "../../gpu-backend/adapters/generated/hyper-network.ts";
import { lossesOf } from "../../gpu-backend/training/bank/measure.ts";
import { bankShape, servedParameters, staticBank, type Trained } from "../../gpu-backend/training/bank/parameters.ts";
import { openReader, plainHead } from "../../gpu-backend/training/bank/reader.ts";
import { openTrainer, type TrainingClusters } from "../../gpu-backend/training/bank/trainer.ts";
import { prefixTokens, type Window } from "../../gpu-backend/training/corpus/windows.ts";
import { seededRandom } from "../support/steps.ts";

const seed = 7;
const [V, D, P, K, windowCount, steps, scored] = [80, 16, 4, 8, 80, 200, 24];
const staticShape = bankShape({ rank: 2, biases: 1 });
const networkShape = bankShape({ rank: 4, biases: 4, hidden: 8, dimensions: P });
const options = { seed, steps, learningRate: 0.05, weightDecay: 0, threads: 1 };

/** Clusters at both ends of each axis of the prompt space. The text of each cluster has a vocabulary of its own. */
function clusteredText() {
  const random = seededRandom(seed);
  const values = (length: number) => Float32Array.from({ length }, () => random() - 0.5);
  const memberOf = Int32Array.from({ length: windowCount }, (_, i) => i % K);
  const windows: Window[] = [...memberOf].map((k, document) => ({
    ...{ corpus: k, document },
    tokenIds: Int32Array.from(
      { length: prefixTokens + scored },
      () => (V / K) * k + Math.floor((V / K) * random() ** 2),
    ),
  }));
  const hidden = windows.map(() => values(scored * D));
  const centroids = new Float32Array(K * P);
  for (let k = 0; k < K; k++) centroids[k * P + (k >> 1)] = k % 2 ? 1 : -1;
  const embeddings = new Float32Array(windowCount * P);
  for (const [i, k] of memberOf.entries()) embeddings.set(centroids.subarray(k * P, (k + 1) * P), i * P);
  const statesOf = (window: Window) => hidden[windows.indexOf(window)];
  const head = { vocabularySize: V, hiddenSize: D, tokenEmbedding: values(V * D) };
  return { text: { head, set: { windows, statesOf } }, embeddings, centroids, memberOf };
}

const { text, ...placed } = clusteredText();

async function trained(shape: Trained["shape"], clusters: TrainingClusters | null): Promise<Trained> {
  const trainer = await openTrainer(text, shape, clusters, options, null);
  while (trainer.state.step < steps) await trainer.step();
  await trainer.release();
  return { shape, parameters: trainer.state.parameters };
}

test("the hyper-network learns each cluster's words above a static adapter, which stays as it was", async () => {
  const fixed = await trained(staticShape, null);
  const before = staticBank(fixed).b.slice();
  const generated = await trained(networkShape, { ...placed, above: staticBank(fixed) });
  expect(staticBank(fixed).b).toEqual(before);

  const { bank, network } = servedParameters(fixed, generated);
  const reader = await openReader(plainHead(text.head), bank, 1);
  const lossUnder = async (gatesAt: (window: number) => Float32Array) => {
    const sums = await lossesOf(reader, text.set, gatesAt);
    return sums.reduce((total, nats) => total + nats, 0) / (scored * windowCount);
  };
  const centroid = (k: number) => placed.centroids.subarray(k * P, (k + 1) * P);
  const base = await lossUnder(() => new Float32Array(bank.gates));
  const alone = await lossUnder(() => gatesOf(network, centroid(0), 0));
  const above = await lossUnder((i) => gatesOf(network, centroid(placed.memberOf[i]), 1));
  await reader.release();
  // There are eight vocabularies of ten words: knowing which one a text uses is worth log 8 = 2.08 nats a token.
  expect(base - alone, `seed ${seed}`).toBeGreaterThan(0);
  expect(alone - above, `seed ${seed}`).toBeGreaterThan(1);
});
