/** What a reader says of models and memories, beside plain loops, and prompts that begin alike. */
import { expect, test } from "vitest";
import { bankOf } from "../../gpu-backend/adapters/generated/hyper-network.ts";
import { readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import { keyScale } from "../../gpu-backend/memory/keys.ts";
import { MemorySearch } from "../../gpu-backend/research/evaluation/own/search.ts";
import { normalised } from "../../gpu-backend/research/evaluation/own/states.ts";
import { type Head, Reader } from "../../gpu-backend/research/evaluation/reader.ts";
import { Prefill } from "../../gpu-backend/research/evaluation/tasks/prefill.ts";
import { createStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import { smallBase } from "../support/small-base.ts";
import { seededRandom } from "../support/steps.ts";

const [N, D, V, Q, M] = [5, 8, 40, 3, 70];
const seed = 4;

test("a reader finds the nearest keys and the probabilities of what follows them, under each row's adapter", async () => {
  const random = seededRandom(seed);
  const floats = (length: number) => Float32Array.from({ length }, () => random() - 0.5);
  const rows = floats(V * D);
  const addLogits: Head["addLogits"] = (g, adapted) =>
    g.node("Gemm", [adapted, g.constant(rows, [V, D])], { transB: 1 });
  const head = { vocabularySize: V, hiddenSize: D, addLogits };
  const bank = { gates: Q, a: floats(Q * D), a0: floats(Q), b: floats(Q * D) };
  const reader = await Reader.open(head, bank, 1);
  const search = await MemorySearch.open(D, 4, 1);
  try {
    const keys = Int8Array.from({ length: M * D }, () => Math.round(250 * (random() - 0.5)));
    const nextIds = Int32Array.from({ length: M }, () => Math.floor(random() * V));
    const [hidden, gates, change] = [floats(N * D), floats(N * Q), floats(N * D)];
    const states = Float32Array.from(Array.from({ length: N }, () => [...normalised(floats(D))]).flat());
    const found = await search.search(states, { keys, nextIds });
    const targets = Int32Array.from({ length: N }, () => Math.floor(random() * V));
    const reading = await reader.read(hidden, gates, targets, { own: found }, change);
    for (let n = 0; n < N; n++) {
      const state = states.subarray(n * D, (n + 1) * D);
      const cosines = Array.from({ length: M }, (_, m) => dot(state, keys.subarray(m * D, (m + 1) * D)));
      const best = [...cosines.keys()].sort((i, j) => cosines[j] - cosines[i]).slice(0, 4);
      expect([...found.nextIds.subarray(n * 4, (n + 1) * 4)]).toEqual(best.map((m) => nextIds[m]));
      expect(found.cosines[n * 4]).toBeCloseTo(cosines[best[0]] / keyScale, 5);

      const h = hidden.subarray(n * D, (n + 1) * D);
      const opened = Array.from({ length: Q }, (_, q) => (dot(h, row(bank.a, q)) + bank.a0[q]) * gates[n * Q + q]);
      const adapted = h.map(
        (x, d) => x + change[n * D + d] + opened.reduce((sum, u, q) => sum + u * bank.b[q * D + d], 0),
      );
      const scores = Array.from({ length: V }, (_, v) => dot(adapted, row(rows, v)));
      const all = Math.log(scores.reduce((sum, score) => sum + Math.exp(score), 0));
      expect(reading.logprobs[n]).toBeCloseTo(scores[targets[n]] - all, 4);
      expect(reading.topIds[n]).toBe(scores.indexOf(Math.max(...scores)));
      expect(reading.topLogprobs[n]).toBeCloseTo(Math.max(...scores) - all, 4);
      for (const [k, m] of best.entries()) {
        expect(reading.memories.own.logprobs[n * 4 + k]).toBeCloseTo(scores[nextIds[m]] - all, 4);
      }
    }
  } finally {
    await reader.release();
    await search.release();
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

function dot(x: Float32Array, y: Float32Array | Int8Array): number {
  return x.reduce((sum, value, d) => sum + value * y[d], 0);
}
