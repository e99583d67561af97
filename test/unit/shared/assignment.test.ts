import { expect, it } from "vitest";
import { tensorFrom } from "../../../shared/artifacts/tensor-file.ts";
import { type EdgeTable, promptEmbedding, rankCentroids, readEdgeTable } from "../../../shared/math/assignment.ts";

const small: EdgeTable = {
  vocabularySize: 3,
  dimensions: 2,
  rows: Int8Array.from([3, 0, 0, -8, -6, 0]),
  rowScales: Float32Array.from([1, 0.5, 0.5]),
};

it("promptEmbedding is the direction of the mean of the dequantised rows, and zeros where that is zero", () => {
  expect(Array.from(promptEmbedding([0, 1], small))).toEqual([Math.fround(0.6), Math.fround(-0.8)]);
  expect(Array.from(promptEmbedding([0, 0, 1, 1], small))).toEqual([Math.fround(0.6), Math.fround(-0.8)]);
  for (const ids of [[], [0, 2]]) expect(Array.from(promptEmbedding(ids, small))).toEqual([0, 0]);
});

it.each([-1, 3, Number.NaN])("promptEmbedding refuses token id %s, naming the vocabulary", (id) => {
  expect(() => promptEmbedding([0, id], small)).toThrow("vocabulary of 3");
});

const centroids = { count: 4, dimensions: 2, vectors: Float32Array.from([0, 1, 1, 0, 0, 1, -1, 0]) };

it("rankCentroids puts the nearest first, and of equals the one of lower index", () => {
  const ranked = rankCentroids(Float32Array.from([0, 1]), centroids);
  expect(ranked.map(({ index }) => index)).toEqual([0, 2, 1, 3]);
  expect(ranked.map(({ similarity }) => similarity)).toEqual([1, 1, 0, 0]);
  expect(rankCentroids(new Float32Array(2), centroids).map(({ index }) => index)).toEqual([0, 1, 2, 3]);
});

const file = () =>
  new Map([
    ["table", tensorFrom(Int8Array.from([1, -2, 3, -4, 5, -6]), [3, 2])],
    ["table_scale", tensorFrom(Float32Array.from([1, 2, 3]), [3])],
    ["centroids", tensorFrom(Float32Array.from([0, 1]), [1, 2])],
  ]);

it.each([
  ["table", tensorFrom(new Float32Array(6), [3, 2])],
  ["table_scale", tensorFrom(new Float32Array(2), [2])],
  ["centroids", tensorFrom(new Float32Array(3), [1, 3])],
  ["table", tensorFrom(new Int8Array(6), [6])],
])("readEdgeTable names tensor %s when it does not fit the others", (name, tensor) => {
  expect(() => readEdgeTable(file().set(name, tensor))).toThrow(`${name} is`);
});

it.each<[string, string, number[], number[], RegExp]>([
  ["a scale that is no number", "table_scale", [1, Number.NaN, 3], [3], /table_scale: value 1 is NaN/],
  ["an infinite scale", "table_scale", [1, 2, Number.POSITIVE_INFINITY], [3], /table_scale: value 2 is Infinity/],
  ["a scale whose products overflow", "table_scale", [1e30, 2, 3], [3], /table_scale: value 0 is .*1000000/],
  ["a centroid that is no number", "centroids", [0, Number.NaN], [1, 2], /centroids: value 1 is NaN/],
  ["a centroid of another length", "centroids", [0, 3], [1, 2], /centroids: the length of row 0 is 3/],
])("readEdgeTable refuses %s", (_, name, values, shape, message) => {
  const tensor = tensorFrom(Float32Array.from(values), shape);
  expect(() => readEdgeTable(file().set(name, tensor))).toThrow(message);
});
