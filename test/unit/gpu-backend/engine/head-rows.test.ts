import { expect, test } from "vitest";
import { meanAdapter, type RowAdapter } from "../../../../gpu-backend/adapters/adapter.ts";
import { HeadRows } from "../../../../gpu-backend/engine/head-rows.ts";
import type { Sequence } from "../../../../gpu-backend/engine/sequence.ts";
import type { WeightedChange } from "../../../../gpu-backend/runtime/step.ts";

const changeOf = (value: number) => ({ a: Float32Array.of(value), b: Float32Array.of(value, value) });
const [one, two] = [changeOf(1), changeOf(2)];
const adapterOf = (gates: number[] | null, ...changes: WeightedChange[]): RowAdapter => ({
  gates: gates && Float32Array.from(gates),
  changes,
});

test("a mixture has the weighted sum of its experts' gates and their weighted changes; the base has neither", () => {
  const own = { change: one, weight: 1 };
  const experts = [adapterOf([1, 2], own), adapterOf([-3, 4], { change: two, weight: 0.5 }), adapterOf(null, own)];
  expect(meanAdapter(experts, [0.5, 0.25, 0])).toEqual(
    adapterOf([-0.25, 2], { change: one, weight: 0.5 }, { change: two, weight: 0.125 }),
  );
  expect(meanAdapter(experts, [0, 0, 0.25])).toEqual(adapterOf(null, { change: one, weight: 0.25 }));
  expect(meanAdapter(experts, [0, 1, 0])).toEqual(experts[1]);
  expect(meanAdapter(experts, [0, 0, 0])).toBeNull();
  expect(meanAdapter([], [])).toBeNull();
});

test("rows of experts carry their gates, their changes and the token that they score", () => {
  const rows = new HeadRows(2);
  const sequence = { row: { positions: 4 } } as Sequence;
  const at = rows.at(sequence, 3);
  const both = adapterOf(null, { change: two, weight: 0.5 }, { change: one, weight: 0.25 });
  for (const expert of [null, adapterOf([1, 2], { change: one, weight: 1 }), both]) rows.addExpert(expert, at, 5);
  const { gates, targetIds, own, ...input } = rows.tensors();
  expect([...gates]).toEqual([0, 0, 1, 2, 0, 0]);
  expect([...targetIds]).toEqual([5, 5, 5]);
  expect(rows.states).toEqual([{ kv: sequence.row, position: 3 }]);
  expect([...input.rows]).toEqual([0, 0, 0]);
  expect(own!.changes).toEqual([one, two]);
  expect([[...own!.rows], [...own!.indexes], [...own!.weights]]).toEqual([
    [1, 2],
    [0, 0, 0, 0, 1, 0, 1, 1],
    [1, 0, 0, 0, 0.5, 0.25, 0, 0],
  ]);
});

test("without own adapters the graph is fed none; a single one has a single place", () => {
  const rows = new HeadRows(0);
  const at = rows.at({ row: { positions: 4 } } as Sequence, 3);
  rows.addExpert(adapterOf([]), at, 5);
  expect(rows.tensors().own).toBeUndefined();
  rows.addExpert(adapterOf([], { change: two, weight: 1 }), at, 5);
  expect(rows.tensors().own).toMatchObject({ rows: Int32Array.of(1), indexes: Int32Array.of(0) });
});
