import { expect, test } from "vitest";
import { gatesOf, readHyperNetwork } from "../../gpu-backend/adapters/generated/hyper-network.ts";
import { LossMeter } from "../../gpu-backend/training/bank/loss.ts";
import { bankShape, parameterTensors } from "../../gpu-backend/training/bank/parameters.ts";
import { Trainer } from "../../gpu-backend/training/bank/trainer.ts";
import { prefixTokens, type Window } from "../../gpu-backend/training/corpus/windows.ts";
import { seededRandom } from "../support/steps.ts";

const seed = 7;
const [V, D, P, K, windowCount, steps] = [80, 8, 4, 8, 80, 200];
const shape = bankShape({ rank: 4, biases: 2, hidden: 8, dimensions: P });

/** Clusters with a vocabulary each, at both ends of each axis of the prompt space. */
function clusteredText() {
  const random = seededRandom(seed);
  const values = (length: number) => Float32Array.from({ length }, () => random() - 0.5);
  const memberOf = Int32Array.from({ length: windowCount }, (_, i) => i % K);
  const windows: Window[] = [...memberOf].map((k, document) => ({
    ...{ corpus: k, document },
    tokenIds: Int32Array.from({ length: prefixTokens + 24 }, () => (V / K) * k + Math.floor((V / K) * random() ** 2)),
  }));
  const hidden = windows.map(() => values(24 * D));
  const centroids = new Float32Array(K * P);
  for (let k = 0; k < K; k++) centroids[k * P + (k >> 1)] = k % 2 ? 1 : -1;
  const embeddings = new Float32Array(windowCount * P);
  for (const [i, k] of memberOf.entries()) embeddings.set(centroids.subarray(k * P, (k + 1) * P), i * P);
  const states = { read: async (at: number, target: Float32Array) => void target.set(hidden[at]) };
  const head = { vocabularySize: V, hiddenSize: D, tokenEmbedding: values(V * D) };
  return { head, set: { windows, states, firstState: 0, embeddings }, clusters: { centroids, memberOf } };
}

/** Nats a token that the adapter at the origin, which is near no centroid, gains over the base on all text. */
async function gainAtOrigin(): Promise<number> {
  const { head, set, clusters } = clusteredText();
  const options = { seed, steps, learningRate: 0.05, threads: 1 };
  const trainer = await Trainer.open(head, shape, set, clusters, options, null);
  while (trainer.state.step < steps) await trainer.step();
  const { parameters } = trainer.state;
  await trainer.release();
  const gates = gatesOf(readHyperNetwork(parameterTensors(parameters, shape, D, V)), new Float32Array(P), 1);
  const meter = await LossMeter.open(head, shape, 1);
  const all = [...set.windows.keys()];
  const lossUnder = async (own: Float32Array) => {
    const sums = await meter.measure(set, all, parameters, () => own);
    return sums.reduce((total, nats) => total + nats, 0) / (24 * windowCount);
  };
  const gain = (await lossUnder(new Float32Array(shape.gates))) - (await lossUnder(gates));
  await meter.release();
  return gain;
}

test("adapters are trained for text that is near no centroid, too", async () => {
  expect(await gainAtOrigin(), `seed ${seed}`).toBeGreaterThan(0.2);
});
