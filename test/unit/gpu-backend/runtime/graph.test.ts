import { expect, test } from "vitest";
import { GraphBuilder } from "../../../../gpu-backend/runtime/graph.ts";

test("constants that a serialised graph cannot hold are refused with both sizes", () => {
  const g = new GraphBuilder("large");
  // Memory that nothing writes to takes no room.
  for (let i = 0; i < 2; i++) g.constant(new Float32Array(2 ** 28), [2 ** 28]);
  expect(() => g.bytes()).toThrow("graph large: its weights have 2147483648 bytes; a graph has at most 2147483647");
});
