/** The training graphs of the paper's adapters against their formulas. */
import { expect, test } from "vitest";
import {
  openPairHead,
  paperNetwork,
  rank,
  staticLora,
  type Trainable,
  type Weights,
} from "../../../gpu-backend/research/paper/network.ts";
import { Random } from "../../../gpu-backend/training/random.ts";

const seed = 8;
const random = new Random(seed, 0);
const [D, V, P, N] = [6, 11, 5, 7];
const head = { hiddenSize: D, vocabularySize: V, tokenEmbedding: normals(V * D, 0.5) };
const hidden = normals(N * D, 1);
const targets = Int32Array.from({ length: N }, () => random.integer(V));
const input = normals(P, 0.4);

function normals(length: number, deviation: number): Float32Array {
  return Float32Array.from({ length }, () => deviation * random.normal());
}

/** Mean loss in float64 under the adapter of `input`, without dropout. */
function referenceLoss(trainable: Trainable, weights: Weights): number {
  const { a, b } = trainable.forward(weights, input).pair;
  let loss = 0;
  for (let n = 0; n < N; n++) {
    const dot = (values: Float32Array, row: number) => {
      let sum = 0;
      for (let d = 0; d < D; d++) sum += values[row * D + d] * hidden[n * D + d];
      return sum;
    };
    const u = Array.from({ length: rank }, (_, r) => dot(a, r));
    const logits = Array.from({ length: V }, (_, v) =>
      u.reduce((sum, x, r) => sum + x * b[r * V + v], dot(head.tokenEmbedding, v)),
    );
    loss += (Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0)) - logits[targets[n]]) / N;
  }
  return loss;
}

/** One step, with dropout if `masks` are given. */
async function runStep(trainable: Trainable, weights: Weights, masks?: Random) {
  const pairHead = await openPairHead(head, 1);
  const { pair, backward } = trainable.forward(weights, input, masks);
  const { losses, gradients } = await pairHead.run(hidden, targets, pair);
  await pairHead.release();
  return { loss: losses.reduce((sum, x) => sum + x / N, 0), gradients: backward(gradients) };
}

test.each([
  ["static LoRA", staticLora(head)],
  ["the paper's network", paperNetwork(head, P)],
])("loss and every gradient of %s agree with finite differences", async (_, trainable) => {
  const weights = trainable.initial(seed);
  // LoRA starts at B = 0, where most gradients vanish.
  weights.get("b")?.set(normals(rank * V, 0.3));
  const { loss, gradients } = await runStep(trainable, weights);
  expect(loss).toBeCloseTo(referenceLoss(trainable, weights), 5);
  const step = 1e-3;
  const tolerance = 3e-3;
  for (const [name, values] of weights) {
    const gradient = gradients.get(name)!;
    expect(gradient.length).toBe(values.length);
    const slopes: number[] = [];
    const kinks: number[] = [];
    const checked = Array.from({ length: Math.min(values.length, 200) }, () => random.integer(values.length));
    for (const i of checked) {
      const original = values[i];
      const lossAt = (value: number) => {
        values[i] = value;
        return referenceLoss(trainable, weights);
      };
      const [above, below] = [lossAt(original + step) - loss, loss - lossAt(original - step)];
      slopes.push((above + below) / (2 * step));
      // Near a kink of a rectifier the slopes on both sides differ, and the mean is off by up to half of that.
      kinks.push(Math.abs(above - below) / (2 * step));
      values[i] = original;
    }
    const largest = Math.max(...slopes.map(Math.abs));
    const difference = Math.max(...checked.map((i, n) => Math.abs(slopes[n] - gradient[i]) - kinks[n]));
    expect(difference, `seed ${seed}, d_${name}`).toBeLessThan(tolerance * largest);
  }
});

test("dropout is drawn by the step's randomness", async () => {
  const network = paperNetwork(head, P);
  const weights = network.initial(seed);
  const lossWith = async (stream: number) => (await runStep(network, weights, new Random(seed, stream))).loss;
  expect(await lossWith(1)).toBe(await lossWith(1));
  expect(await lossWith(1)).not.toBe(await lossWith(2));
});

test("LoRA starts at zero", () => {
  const lora = staticLora(head);
  expect(lora.forward(lora.initial(seed), input).pair.b.every((x) => x === 0)).toBe(true);
});
