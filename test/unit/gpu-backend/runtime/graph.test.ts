import { expect, test } from "vitest";
import { GraphBuilder } from "../../../../gpu-backend/runtime/graph.ts";

test("equal integers and scalars, and an array given again in the same shape, are stored once", () => {
  const g = new GraphBuilder("test");
  const array = new Float32Array(6);
  expect(g.constant(array, [6])).toBe(g.constant(array, [6]));
  expect(g.constant(array, [6])).not.toBe(g.constant(array, [2, 3]));
  expect(g.integers(1, 2)).toBe(g.integers(1, 2));
  expect(g.scalar(0.5)).toBe(g.scalar(0.5));
  expect(g.integers(1)).not.toBe(g.integers(1, 2));
});

test("a constant whose shape and length disagree is refused with both", () => {
  const g = new GraphBuilder("test");
  expect(() => g.constant(new Float32Array(5), [2, 3], "w")).toThrow(/w.*2,3.*6.*5/);
});

test("constants that a serialised graph cannot hold are refused with both sizes", () => {
  const g = new GraphBuilder("large");
  // Memory that nothing writes to takes no room.
  for (let i = 0; i < 2; i++) g.constant(new Float32Array(2 ** 28), [2 ** 28]);
  expect(() => g.bytes()).toThrow("graph large: its weights have 2147483648 bytes; a graph has at most 2147483647");
});
