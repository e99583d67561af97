import { expect, test } from "vitest";
import { meanAdapter } from "../../../../gpu-backend/adapters/adapter.ts";
import { HeadRows } from "../../../../gpu-backend/engine/head-rows.ts";
import type { Sequence } from "../../../../gpu-backend/engine/sequence.ts";

const adapterOf = (gates: number[] | null, ...bias: [id: number, value: number][]) => ({
  gates: gates && Float32Array.from(gates),
  bias:
    bias.length > 0
      ? { ids: Int32Array.from(bias, ([id]) => id), values: Float32Array.from(bias, ([, x]) => x) }
      : null,
});

test("a mixture has the weighted sums of its experts' gates and biases; the base has neither", () => {
  const experts = [adapterOf([1, 2], [3, 8]), adapterOf([-3, 4], [1, 2], [3, -4]), adapterOf(null, [0, 16])];
  expect(meanAdapter(experts, [0.5, 0.25, 0])).toEqual(adapterOf([-0.25, 2], [1, 0.5], [3, 3]));
  expect(meanAdapter(experts, [0, 0, 0.25])).toEqual(adapterOf(null, [0, 4]));
  expect(meanAdapter(experts, [0, 1, 0])).toEqual(experts[1]);
  expect(meanAdapter(experts, [0, 0, 0])).toBeNull();
  expect(meanAdapter([], [])).toBeNull();
});

test("rows of experts carry their gates, their biases and the token that they score", () => {
  const rows = new HeadRows(2);
  const sequence = { row: { positions: 4 } } as Sequence;
  const at = rows.at(sequence, 3);
  for (const expert of [null, adapterOf([1, 2], [7, 3]), adapterOf(null, [0, 4])]) rows.addExpert(expert, at, 5);
  const { gates, targetIds, bias, ...input } = rows.tensors();
  expect([...gates]).toEqual([0, 0, 1, 2, 0, 0]);
  expect([...targetIds]).toEqual([5, 5, 5]);
  expect(rows.states).toEqual([{ kv: sequence.row, position: 3 }]);
  expect([...input.rows]).toEqual([0, 0, 0]);
  expect([[...bias.rows], [...bias.ids], [...bias.offsets], [...bias.values]]).toEqual([
    [1, 2],
    [7, 0],
    [3, 4],
    [0, 0],
  ]);
});
