/** The map: names never cover each other, also where measured positions collapse. */
import { expect, test } from "vitest";
import { between, spread } from "../../../../edge/page/map-layout.ts";
import { seededRandom } from "../../../support/steps.ts";

const wide = { width: 1060, height: 490, box: { width: 118, height: 74 } };
const narrow = { width: 324, height: 770, box: { width: 108, height: 74 } };
const seed = 5;
const random = seededRandom(seed);
const blobs = Array.from({ length: 16 }, (_, i): [number, number] => [
  (i % 2) + random() * 1e-6,
  (i % 2) + random() * 1e-6,
]);

test.each([
  ["two blobs on a wide map", blobs, wide],
  ["two blobs on a narrow map", blobs, narrow],
  ["one point", blobs.map((): [number, number] => [0.5, 0.5]), wide],
  ["a line", blobs.map((_, i): [number, number] => [i, i]), narrow],
])("keeps %s apart and inside", (_, positions, area) => {
  const points = spread(positions, area);
  for (const [i, a] of points.entries()) {
    expect(a.x).toBeGreaterThanOrEqual(area.box.width / 2 - 1e-6);
    expect(a.x).toBeLessThanOrEqual(area.width - area.box.width / 2 + 1e-6);
    expect(a.y).toBeGreaterThanOrEqual(area.box.height / 2 - 1e-6);
    expect(a.y).toBeLessThanOrEqual(area.height - area.box.height / 2 + 1e-6);
    for (const b of points.slice(i + 1)) {
      const over = [area.box.width - Math.abs(a.x - b.x), area.box.height - Math.abs(a.y - b.y)];
      expect(Math.min(...over)).toBeLessThan(2);
    }
  }
});

test("a map of one domain has it in the middle, and an empty one is empty", () => {
  expect(spread([[3, 4]], wide)).toEqual([{ x: 530, y: 245 }]);
  expect(spread([], wide)).toEqual([]);
});

test("the prompt stands at what it resembles alone, and halfway between two that it resembles alike", () => {
  const at = { x: 0, y: 0 };
  const other = { x: 10, y: 20 };
  expect(between([])).toBeNull();
  const near = between([
    { similarity: 0.9, at },
    { similarity: 0.1, at: other },
  ]);
  expect(near!.x).toBeLessThan(0.01);
  expect(
    between([
      { similarity: 0.4, at },
      { similarity: 0.4, at: other },
    ]),
  ).toEqual({ x: 5, y: 10 });
});
