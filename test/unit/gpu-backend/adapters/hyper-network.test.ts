import { expect, test } from "vitest";
import { gatesOf, readHyperNetwork } from "../../../../gpu-backend/adapters/generated/hyper-network.ts";
import { type TensorFile, tensorFrom } from "../../../../shared/artifacts/tensor-file.ts";

/** A hyper-network by hand: 4 inputs (P), 2 hidden units (H), 2 gates (Q), states of width 3 (D). */
const file = (): TensorFile =>
  new Map([
    ["w1", tensorFrom(Float32Array.of(0.5, 0, 0, 0, 0, -1, 0, 0), [2, 4])],
    ["b1", tensorFrom(Float32Array.of(0, 0.25), [2])],
    ["w2", tensorFrom(Float32Array.of(1, 0, 2, 4), [2, 2])],
    ["b2", tensorFrom(Float32Array.of(1, -1), [2])],
    ["a", tensorFrom(Float32Array.of(1, 2, 3, 0, 0, 0), [2, 3])],
    ["a0", tensorFrom(Float32Array.of(0, 1), [2])],
    ["b", tensorFrom(Float32Array.of(0, 1, 2, 3, 4, 5), [2, 3])],
    ["static_gates", tensorFrom(Float32Array.of(0.25, -2), [2])],
  ]);
/** gelu_new at 1 and at -0.75, computed in Python. */
const geluOfOne = 0.8411919906082768;
const geluOfMinusThreeQuarters = -0.17003944483437966;

test("gates are s + scale · (W₂·gelu(W₁·(√P·c) + b₁) + b₂)", () => {
  // √4 · c = [2, 1, …], so the two hidden units apply gelu to 1 and −0.75.
  const gates = gatesOf(readHyperNetwork(file()), Float32Array.of(1, 0.5, 0, 0), 0.5);
  const expected = [0.25 + 0.5 * (geluOfOne + 1), -2 + 0.5 * (2 * geluOfOne + 4 * geluOfMinusThreeQuarters - 1)];
  const difference = Math.max(...expected.map((value, q) => Math.abs(gates[q] - value)));
  expect(difference).toBeLessThan(1e-6);
});

test("gates at scale 0 are the static adapter's to the bit, and a centroid of another dimension is refused", () => {
  const network = readHyperNetwork(file());
  expect(Array.from(gatesOf(network, Float32Array.of(1, 0, 0, 0), 0))).toEqual([0.25, -2]);
  expect(() => gatesOf(network, Float32Array.of(1, 0, 0), 1)).toThrow(/3 dimensions.*4/);
});
