import { expect, test } from "vitest";
import { directionsOf, type FullNetwork, readFullNetwork } from "../../../../gpu-backend/adapters/full-network.ts";
import { type TensorFile, tensorFrom } from "../../../../shared/artifacts/tensor-file.ts";
import { maxDifference, seededRandom } from "../../../support/steps.ts";

const seed = 1720;
const tolerance = 1e-6;

function run(network: FullNetwork, centroid: Float32Array, scale: number) {
  const slices = directionsOf(network, centroid, scale);
  for (let pauses = 0; ; pauses++) {
    const { done, value } = slices.next();
    if (done) return { ...value, pauses };
  }
}

/** P = 4, H₁ = 2, H₂ = 2, R = 1, D = 2, V = 3. */
const shape = { dimensions: 4, hidden: [2, 2] as const, rank: 1, hiddenSize: 2, vocabularySize: 3 };
const file = (): TensorFile =>
  new Map([
    ["w1", tensorFrom(Float32Array.of(0.5, 0, 0, 0, 0, -1, 0, 0), [2, 4])],
    ["b1", tensorFrom(Float32Array.of(0, 0.25), [2])],
    ["w2", tensorFrom(Float32Array.of(1, 7, -1, 0), [2, 2])],
    ["b2", tensorFrom(Float32Array.of(1, 0.5), [2])],
    ["w3", tensorFrom(Float32Array.of(1, 9, 2, 9, 3, 9, 4, 9, 0.5, 9), [5, 2])],
    ["b3", tensorFrom(Float32Array.of(0, 1, 0, 1, 0), [5])],
  ]);

test("by hand: two rectified layers, then A, then B times the scale", () => {
  // √4 · c = [2, 1, …]: first layer [1, −0.75 → 0], second [2, −0.5 → 0].
  const { a, b, rank } = run(readFullNetwork(file(), shape), Float32Array.of(1, 0.5, 0, 0), 0.5);
  expect(rank).toBe(1);
  expect([...a]).toEqual([2, 5]);
  expect([...b]).toEqual([3, 4.5, 0.5]);
});

test("a centroid of another dimension and a misshapen tensor are refused with both numbers", () => {
  const network = readFullNetwork(file(), shape);
  expect(() => run(network, Float32Array.of(1), 1)).toThrow(/1 dimensions.*4/);
  expect(() => readFullNetwork(file(), { ...shape, rank: 2 })).toThrow(/w3 is F32 \[5,2\], expected F32 \[10,2\]/);
});

test("in slices or not, a large one is the formula's; a NaN comes through", () => {
  const random = seededRandom(seed);
  const [P, H1, H2, R, D, V] = [16, 64, 32, 4, 96, 9000];
  const floats = (length: number) => Float32Array.from({ length }, () => (random() - 0.5) * 0.5);
  const width = R * (D + V);
  const [w1, b1, w2, b2] = [floats(H1 * P), floats(H1), floats(H2 * H1), floats(H2)];
  const network: FullNetwork = {
    ...{ dimensions: P, hidden: [H1, H2], rank: R, hiddenSize: D, vocabularySize: V },
    ...{ w1, b1, w2, b2, w3: floats(width * H2), b3: floats(width) },
  };
  const centroid = floats(P);
  const layer = (w: Float32Array, b: Float32Array, x: number[]) =>
    Array.from(b, (shift, row) => x.reduce((sum, value, i) => sum + w[row * x.length + i] * value, shift));
  const relu = (values: number[]) => values.map((value) => Math.max(value, 0));
  const x = Array.from(centroid, (value) => value * 4);
  const expected = layer(network.w3, network.b3, relu(layer(w2, b2, relu(layer(w1, b1, x)))));
  const { a, b, pauses } = run(network, centroid, 0.25);
  const difference = Math.max(
    maxDifference(a, expected.slice(0, R * D)),
    maxDifference(
      b,
      expected.slice(R * D).map((value) => value / 4),
    ),
  );
  console.log(`max |directions − formula| ${difference.toExponential(2)}, tolerance ${tolerance}, ${pauses} pauses`);
  expect(difference).toBeLessThan(tolerance);
  expect(pauses).toBe(Math.ceil((width * H2) / 2 ** 20) - 1);
  const broken = run(network, Float32Array.from(centroid).fill(Number.NaN, 3, 4), 1);
  expect(broken.a.every(Number.isNaN) && broken.b.every(Number.isNaN)).toBe(true);
});
