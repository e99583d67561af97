import { expect, test } from "vitest";
import { labelsOf, mapPositions } from "../../../gpu-backend/training/clustering/describe.ts";

const pieces = [" the", " whale", " query", "ing", " WHALE", " a"];

test("labels are what a cluster has more of than the corpus, words only, each once", () => {
  const counts = [Float64Array.of(5000, 300, 1, 200, 90, 500), Float64Array.of(5000, 2, 250, 340, 1, 500)];
  const [sea, tables] = labelsOf(counts, (id) => pieces[id], 1);
  expect(sea).toEqual(["whale"]);
  expect(tables).toEqual(["query"]);
});

test("the map keeps what is far apart far apart", () => {
  const centroids = Float32Array.of(1, 0, 0, 0.99, 0.1, 0, -1, 0, 0);
  const [a, b, c] = mapPositions(centroids, 3);
  const distance = (p: number[], q: number[]) => Math.hypot(p[0] - q[0], p[1] - q[1]);
  expect(distance(a, b)).toBeCloseTo(Math.hypot(0.01, 0.1), 3);
  expect(distance(a, c)).toBeCloseTo(2, 3);
});
