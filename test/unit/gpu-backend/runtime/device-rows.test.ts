import { expect, test } from "vitest";
import { DeviceRows } from "../../../../gpu-backend/runtime/device-rows.ts";

test("a row that was held is found again, wherever the host has it now", () => {
  const table = new DeviceRows(4);
  const { rows, missing } = table.place([7, 8, 9], [0, 0, 0], [7, 8, 9]);
  expect(new Set(rows).size).toBe(3);
  expect(missing).toEqual([]); // nothing of an empty past is missing
  for (const name of [7, 8, 9]) table.hold(name, 5);
  expect(table.place([9, 7], [5, 4], [7, 8, 9])).toEqual({ rows: [rows[2], rows[0]], missing: [] });
});

test("what is longer than what was held is missing, and so is what nobody has seen", () => {
  const table = new DeviceRows(4);
  const [row] = table.place([1], [0], [1]).rows;
  table.hold(1, 5);
  const { rows, missing } = table.place([2, 1], [3, 6], [1, 2]);
  expect(missing).toEqual([0, 1]);
  expect(rows[1]).toBe(row);
  expect(rows[0]).not.toBe(row);
});

test("the row of who has left is given to another, who does not inherit it", () => {
  const table = new DeviceRows(2);
  const [first] = table.place([1, 2], [0, 0], [1, 2]).rows;
  table.hold(1, 5);
  table.hold(2, 5);
  expect(table.place([3], [5], [2, 3])).toEqual({ rows: [first], missing: [0] });
  expect(table.place([2], [5], [2, 3]).missing).toEqual([]);
});

test("more names than rows are refused", () => {
  expect(() => new DeviceRows(2).place([1], [0], [1, 2, 3])).toThrow("3 rows do not fit the device's 2");
});
