import { expect, test } from "vitest";
import { labelsOf } from "../../../gpu-backend/training/clustering/describe.ts";
import { kMeans } from "../../../gpu-backend/training/clustering/k-means.ts";
import { Random } from "../../../gpu-backend/training/random.ts";

const seed = 7;
const P = 16;

/** Unit vectors around K planted unit directions; returns the planted cluster of each. */
function planted(K: number, perCluster: number, noise: number) {
  const random = new Random(seed, 0);
  const unit = (values: number[]) => values.map((x) => x / Math.hypot(...values));
  const directions = Array.from({ length: K }, () => unit(Array.from({ length: P }, () => random.normal())));
  const truth = Array.from({ length: K * perCluster }, (_, i) => i % K);
  const points = truth.flatMap((k) => unit(directions[k].map((x) => x + noise * random.normal())));
  return { points: Float32Array.from(points), truth };
}

test("k-means finds planted clusters, whatever their numbers", () => {
  const K = 6;
  const { points, truth } = planted(K, 50, 0.08);
  const { memberOf } = kMeans(points, P, { clusters: K, seed });
  const pairs = new Set(truth.map((k, i) => `${k}-${memberOf[i]}`));
  expect(pairs.size).toBe(K); // found and planted clusters match one to one
});

test("equal seeds give equal bytes; centroids have length one", () => {
  const { points } = planted(4, 30, 0.5);
  const first = kMeans(points, P, { clusters: 4, seed });
  const second = kMeans(points, P, { clusters: 4, seed });
  expect(first).toEqual(second);
  for (let k = 0; k < 4; k++) {
    expect(Math.hypot(...first.centroids.subarray(k * P, (k + 1) * P))).toBeCloseTo(1, 5);
  }
});

test("more clusters than there are different points leaves some empty, each with a centroid; more than points are refused", () => {
  expect(() => kMeans(new Float32Array(2 * P), P, { clusters: 3, seed })).toThrow(/3 clusters.*2/);
  const points = Float32Array.from({ length: 6 * P }, (_, i) => Number(i % P === Math.floor(i / P) % 2));
  const { centroids, memberOf } = kMeans(points, P, { clusters: 4, seed });
  expect([...memberOf.subarray(2)]).toEqual([...memberOf.subarray(0, 4)]);
  expect(new Set(memberOf).size).toBe(2);
  for (let k = 0; k < 4; k++) expect(Math.hypot(...centroids.subarray(k * P, (k + 1) * P))).toBe(1);
});

const pieces = [" the", " whale", " query", "ing", " WHALE", " a"];

test("labels are what a cluster has more of than the corpus, words only, each once", () => {
  const counts = [Float64Array.of(5000, 300, 1, 200, 90, 500), Float64Array.of(5000, 2, 250, 340, 1, 500)];
  const [sea, tables] = labelsOf(counts, (id) => pieces[id]);
  expect(sea).toEqual(["whale", "the"]);
  expect(tables).toEqual(["query", "the"]);
});
