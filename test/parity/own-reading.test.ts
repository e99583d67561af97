/** Reading a model for training and research, compared with plain loops; and prefills of prompts with a common beginning. */
import { expect, test } from "vitest";
import { bankOf } from "../../gpu-backend/adapters/generated/hyper-network.ts";
import { readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import { Prefill } from "../../gpu-backend/research/tasks/prefill.ts";
import { openReader, plainHead } from "../../gpu-backend/training/bank/reader.ts";
import { smallBase } from "../support/small-base.ts";
import { createStepRunner } from "../support/step-runner.ts";
import { seededRandom } from "../support/steps.ts";

const [N, D, V, Q, K] = [5, 8, 40, 3, 4];
const seed = 4;

test("a reader gives the probabilities of tokens under each row's adapter, also of rows that share one", async () => {
  const random = seededRandom(seed);
  const floats = (length: number) => Float32Array.from({ length }, () => random() - 0.5);
  const ids = (length: number) => Int32Array.from({ length }, () => Math.floor(random() * V));
  const rows = floats(V * D);
  const bank = { gates: Q, a: floats(Q * D), a0: floats(Q), b: floats(Q * D) };
  const head = plainHead({ vocabularySize: V, hiddenSize: D, tokenEmbedding: rows });
  const reader = await openReader(head, bank, 1);
  try {
    const [hidden, gates, change] = [floats(N * D), floats(N * Q), floats(N * D)];
    const [targets, others] = [ids(N), ids(N * K)];
    const reading = await reader.read(hidden, gates, targets, { change, others });
    const shared = await reader.read(hidden, gates.subarray(0, Q), targets);
    for (let n = 0; n < N; n++) {
      const h = hidden.subarray(n * D, (n + 1) * D);
      const logprobs = (own: Float32Array, by: (d: number) => number) => {
        const opened = Array.from({ length: Q }, (_, q) => (dot(h, row(bank.a, q)) + bank.a0[q]) * own[q]);
        const adapted = h.map((x, d) => x + by(d) + opened.reduce((sum, u, q) => sum + u * bank.b[q * D + d], 0));
        const scores = Array.from({ length: V }, (_, v) => dot(adapted, row(rows, v)));
        const all = Math.log(scores.reduce((sum, score) => sum + Math.exp(score), 0));
        return scores.map((score) => score - all);
      };
      const expected = logprobs(gates.subarray(n * Q, (n + 1) * Q), (d) => change[n * D + d]);
      expect(reading.logprobs[n]).toBeCloseTo(expected[targets[n]], 4);
      expect(reading.topIds[n]).toBe(expected.indexOf(Math.max(...expected)));
      expect(reading.topLogprobs[n]).toBeCloseTo(Math.max(...expected), 4);
      for (let k = 0; k < K; k++) {
        expect(reading.otherLogprobs[n * K + k]).toBeCloseTo(expected[others[n * K + k]], 4);
      }
      expect(shared.logprobs[n]).toBeCloseTo(logprobs(gates.subarray(0, Q), () => 0)[targets[n]], 4);
    }
  } finally {
    await reader.release();
  }
});

test("texts that begin alike have the states that each has by itself", async () => {
  const { model, hyperNetwork } = await readArtifacts(smallBase);
  const runner = await createStepRunner({ ...model, bank: bankOf(hyperNetwork), threads: 1, format: "fp32" });
  try {
    const prefill = new Prefill(runner);
    const common = Array.from({ length: 40 }, (_, i) => (7 * i) % 100);
    const texts = [[3], [5, 8, 13], [5, 8]].map((ids) => [...common, ...ids]);
    const together = await prefill.lastStates(texts);
    const size = model.config.hiddenSize;
    for (const [i, ids] of texts.entries()) {
      const alone = await prefill.states(ids, 1);
      const differences = alone.map((x, d) => Math.abs(x - together[i * size + d]));
      expect(Math.max(...differences)).toBeLessThan(1e-4);
    }
    expect((await prefill.states(texts[1], 2)).subarray(size)).toEqual(await prefill.states(texts[1], 1));
  } finally {
    await runner.release();
  }
});

function row(matrix: Float32Array, i: number): Float32Array {
  return matrix.subarray(i * D, (i + 1) * D);
}

function dot(x: Float32Array, y: Float32Array): number {
  return x.reduce((sum, value, d) => sum + value * y[d], 0);
}
