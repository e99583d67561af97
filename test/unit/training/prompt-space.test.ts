import { expect, test } from "vitest";
import { symmetricEigen } from "../../../gpu-backend/training/clustering/eigen.ts";
import { fitPromptSpace, foldTable } from "../../../gpu-backend/training/clustering/prompt-space.ts";
import { Random } from "../../../gpu-backend/training/random.ts";
import { promptEmbedding } from "../../../shared/math/assignment.ts";

const seed = 11;
const [V, D, P] = [50, 12, 5];
const random = new Random(seed, 0);
/** Some directions are much stronger than others, as in a real embedding. */
const tokenEmbedding = Float32Array.from({ length: V * D }, (_, i) => random.normal() / (1 + (i % D)));
const prefixes = Array.from({ length: 200 }, () => Int32Array.from({ length: 8 }, () => random.integer(V)));

const meanRow = (ids: Int32Array) =>
  Array.from({ length: D }, (_, d) => ids.reduce((sum, id) => sum + tokenEmbedding[id * D + d], 0) / ids.length);

test("eigenvectors are orthonormal, sorted, and give the matrix back", () => {
  const n = 9;
  const half = Array.from({ length: n * n }, () => random.normal());
  const matrix = Float64Array.from(half, (_, i) => half[i] + half[(i % n) * n + Math.floor(i / n)]);
  const { values, vectors } = symmetricEigen(matrix, n);
  let worst = 0;
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      let product = 0;
      let rebuilt = 0;
      for (let k = 0; k < n; k++) {
        product += vectors[i * n + k] * vectors[j * n + k];
        rebuilt += values[k] * vectors[k * n + i] * vectors[k * n + j];
      }
      worst = Math.max(worst, Math.abs(product - (i === j ? 1 : 0)), Math.abs(rebuilt - matrix[i * n + j]));
    }
  }
  console.log(`seed ${seed}: max error ${worst.toExponential(1)}, tolerance 1e-12`);
  expect(worst).toBeLessThan(1e-12);
  expect([...values]).toEqual([...values].sort((a, b) => b - a));
});

test("projected prefixes have mean 0 and variances √λ: half-whitened", () => {
  const space = fitPromptSpace(tokenEmbedding, D, prefixes, P);
  const projected = prefixes.map((ids) => {
    const row = meanRow(ids);
    return Array.from({ length: P }, (_, p) =>
      row.reduce((sum, x, d) => sum + (x - space.mean[d]) * space.transform[d * P + p], 0),
    );
  });
  // λ computed directly: the variance of the prefixes along the unwhitened direction.
  for (let p = 0; p < P; p++) {
    const length = Math.hypot(...Array.from({ length: D }, (_, d) => space.transform[d * P + p])); // λ^-¼
    const lambda = length ** -4;
    const variance = projected.reduce((sum, x) => sum + x[p] ** 2, 0) / projected.length;
    const mean = projected.reduce((sum, x) => sum + x[p], 0) / projected.length;
    expect(Math.abs(mean)).toBeLessThan(1e-6);
    expect(variance / Math.sqrt(lambda)).toBeCloseTo(1, 4);
    for (let q = 0; q < p; q++) {
      const covariance = projected.reduce((sum, x) => sum + x[p] * x[q], 0) / projected.length;
      expect(Math.abs(covariance)).toBeLessThan(1e-6);
    }
  }
});

test("the folded int8 table embeds a prompt as the direct computation does", () => {
  const space = fitPromptSpace(tokenEmbedding, D, prefixes, P);
  const table = foldTable(space, tokenEmbedding);
  let lowest = 1;
  for (const ids of prefixes.slice(0, 50)) {
    const row = meanRow(ids);
    const direct = Array.from({ length: P }, (_, p) =>
      row.reduce((sum, x, d) => sum + (x - space.mean[d]) * space.transform[d * P + p], 0),
    );
    const embedding = promptEmbedding(ids, table);
    const cosine = direct.reduce((sum, x, p) => sum + x * embedding[p], 0) / Math.hypot(...direct);
    lowest = Math.min(lowest, cosine);
  }
  console.log(`lowest cosine ${lowest}, at least 0.9995 wanted`);
  expect(lowest).toBeGreaterThan(0.9995);
});

test("more dimensions than the model is wide is refused", () => {
  expect(() => fitPromptSpace(tokenEmbedding, D, prefixes, D + 1)).toThrow(/13.*12/);
});
