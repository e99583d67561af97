import { describe, expect, test } from "vitest";
import { GraphBuilder } from "../../../../gpu-backend/runtime/graph.ts";
import { openSession, tensor } from "../../../../gpu-backend/runtime/session.ts";

describe("GraphBuilder", () => {
  test("a built graph runs: constants, attributes, several outputs, sizes that vary between runs", async () => {
    const g = new GraphBuilder("test");
    const x = g.input("x", "float32", ["N", 2]);
    const doubled = g.node("Mul", [x, g.scalar(2)]);
    const [left, right] = g.nodes("Split", [doubled], 2, { axis: 1, num_outputs: 2 });
    g.output("left", left, "float32", ["N", 1]);
    g.output("right", g.node("Add", [right, g.constant(Float32Array.of(10), [1])]), "float32", ["N", 1]);
    const session = await openSession(g.bytes(), { threads: 1 });
    for (const rows of [1, 3]) {
      const values = Float32Array.from({ length: 2 * rows }, (_, i) => i);
      const results = await session.run({ x: tensor(values, [rows, 2]) });
      expect(results.left.data).toEqual(Float32Array.from({ length: rows }, (_, i) => 4 * i));
      expect(results.right.data).toEqual(Float32Array.from({ length: rows }, (_, i) => 4 * i + 12));
    }
    await session.release();
  });

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

  test("a constant over part of a larger buffer stores that part", async () => {
    const g = new GraphBuilder("test");
    const part = Float32Array.of(1, 2, 3, 4).subarray(1, 3);
    g.output("y", g.node("Add", [g.input("x", "float32", [2]), g.constant(part, [2])]), "float32", [2]);
    const session = await openSession(g.bytes(), { threads: 1 });
    const { y } = await session.run({ x: tensor(Float32Array.of(10, 20), [2]) });
    expect(y.data).toEqual(Float32Array.of(12, 23));
    await session.release();
  });

  test("a branch runs only where its condition holds, reads what is around it, and else gives empty tensors", async () => {
    const g = new GraphBuilder("test");
    const x = g.input("x", "float32", ["N"]);
    const doubled = g.node("Mul", [x, g.scalar(2)]);
    g.output("doubled", doubled, "float32", ["N"]);
    const one = g.constant(Int32Array.of(1), [1]);
    const shapes = [
      { type: "float32", shape: ["N"] },
      { type: "int32", shape: ["M", 1] },
    ] as const;
    const [sum, id] = g.when(g.input("wanted", "bool", []), shapes, () => [
      g.node("Add", [doubled, g.scalar(1)]),
      g.node("Unsqueeze", [one, g.integers(1)]),
    ]);
    g.output("sum", sum, "float32", ["N"]);
    g.output("id", id, "int32", ["M", 1]);
    const session = await openSession(g.bytes(), { threads: 1 });
    const run = (wanted: number) =>
      session.run({ x: tensor(Float32Array.of(3, 4), [2]), wanted: tensor(Uint8Array.of(wanted), [], "bool") });
    const taken = await run(1);
    expect([...(taken.sum.data as Float32Array)]).toEqual([7, 9]);
    expect(taken.id.dims).toEqual([1, 1]);
    const left = await run(0);
    expect([...(left.doubled.data as Float32Array)]).toEqual([6, 8]);
    expect(left.sum.dims).toEqual([0]);
    expect(left.id.dims).toEqual([0, 1]);
    await session.release();
  });
});
