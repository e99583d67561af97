import { afterAll, beforeAll, expect, test } from "vitest";
import { promptBias } from "../../../gpu-backend/adapters/prompt-bias.ts";
import { type HeadSession, openHeadSession } from "../../../gpu-backend/runtime/head-probabilities.ts";
import { continuationGains, logFrequenciesOf } from "../../../gpu-backend/training/bank/prompt-bias.ts";
import { randomBank, seededRandom } from "../../support/steps.ts";

const seed = 11;
const [V, D, N] = [60, 8, 12];
const endOfTextId = V - 1;
const random = seededRandom(seed);
const normals = (length: number) => Float32Array.from({ length }, () => 4 * (random() - 0.5));
const ids = (length: number) => Int32Array.from({ length }, () => Math.floor(random() ** 2 * endOfTextId));
const tokenEmbedding = normals(V * D);
const config = {
  vocabularySize: V,
  hiddenSize: D,
  layers: 1,
  heads: 1,
  contextTokens: 64,
  layerNormEpsilon: 1e-5,
  endOfTextId,
};
const bank = randomBank(config, 3, 1, random);
let head: HeadSession;

beforeAll(async () => {
  console.log(`seed ${seed}`);
  head = await openHeadSession(tokenEmbedding, D, bank, 1);
});
afterAll(() => head.release());

/** Loss of the targets by definition: every logit, the bias added, in float64. */
function lossOf(hidden: Float32Array, targets: Int32Array, gates: Float32Array, bias: Map<number, number>): number {
  let loss = 0;
  for (let n = 0; n < N; n++) {
    const h = hidden.subarray(n * D, (n + 1) * D);
    const dot = (matrix: Float32Array, row: number) => h.reduce((sum, x, d) => sum + x * matrix[row * D + d], 0);
    const inner = Array.from(gates, (gate, q) => gate * (dot(bank.a, q) + bank.a0[q]));
    const logits = Array.from(
      { length: V },
      (_, v) =>
        dot(tokenEmbedding, v) + inner.reduce((sum, x, q) => sum + x * bank.b[q * V + v], 0) + (bias.get(v) ?? 0),
    );
    const largest = Math.max(...logits);
    loss += largest + Math.log(logits.reduce((sum, x) => sum + Math.exp(x - largest), 0)) - logits[targets[n]];
  }
  return loss;
}

test("what is gained is the difference of the losses with and without the bias", async () => {
  const promptIds = ids(30);
  const targets = ids(N);
  const hidden = normals(N * D);
  const gates = normals(bank.gates);
  const logarithms = logFrequenciesOf([{ corpus: 0, document: 0, tokenIds: ids(500) }], V);
  const choices = [0, 0.3, 0.8].map((strength) => ({ strength, prior: 50 }));
  const { loss, gains } = await continuationGains(
    head,
    { promptIds, targets, hidden },
    gates,
    { logarithms, endOfTextId },
    choices,
  );
  const without = lossOf(hidden, targets, gates, new Map());
  const differences = [Math.abs(loss - without)];
  for (const [c, choice] of choices.entries()) {
    const bias = promptBias(promptIds, logarithms, choice, endOfTextId);
    const values = new Map(bias ? [...bias.ids].map((id, i) => [id, bias.values[i]]) : []);
    differences.push(Math.abs(gains[c] - (without - lossOf(hidden, targets, gates, values))));
  }
  console.log(`largest difference ${Math.max(...differences).toExponential(1)} of ${without.toFixed(1)} nats`);
  expect(Math.max(...differences)).toBeLessThan(1e-4);
  expect(gains[0]).toBe(0);
  expect(Math.abs(gains[2])).toBeGreaterThan(0.01);
});
