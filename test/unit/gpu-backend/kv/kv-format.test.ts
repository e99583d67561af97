import { expect, test } from "vitest";
import { storedAs } from "../../../../gpu-backend/kv/kv-format.ts";
import { seededRandom } from "../../../support/steps.ts";

const seed = 1129;
const config = { layers: 1, headWidth: 8 };

test("as int8 each vector has a scale of its own, and no element is off by more than half of it", () => {
  const random = seededRandom(seed);
  // Vectors of very different sizes, one of them of zeros.
  const present = Float32Array.from({ length: 2 * 3 * 8 }, (_, i) => (random() - 0.5) * 10 ** (Math.floor(i / 8) - 3));
  present.fill(0, 16, 24);
  const [keys, values, keyScales, valueScales] = storedAs("int8", present.slice(), config);
  const stored = [...keys, ...values];
  const scales = [...keyScales, ...valueScales];
  expect([stored.length, scales.length]).toEqual([48, 6]);
  let worst = 0;
  present.forEach((x, i) => {
    const scale = scales[Math.floor(i / 8)];
    if (scale > 0) worst = Math.max(worst, Math.abs(stored[i] * scale - x) / scale);
    else expect([x, stored[i]]).toEqual([0, 0]);
  });
  console.log(`seed ${seed}: greatest error ${worst.toFixed(3)} of a scale`);
  expect(worst).toBeLessThanOrEqual(0.5001);
  for (let v = 0; v < 6; v++) {
    if (scales[v] > 0) expect(Math.max(...stored.slice(8 * v, 8 * v + 8).map(Math.abs))).toBe(127);
  }
});

test("as they are, keys and values are views of what the graph gave", () => {
  const present = Float32Array.from({ length: 32 }, (_, i) => i);
  const [keys, values] = storedAs("fp32", present, config);
  expect([keys.buffer === present.buffer, keys[0], values[0]]).toEqual([true, 0, 16]);
});
