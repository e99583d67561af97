import { expect, test } from "vitest";
import { Gate } from "../../../edge/backend/gate.ts";

test("lets so many through at once, the others in order, whatever becomes of those before", async () => {
  const gate = new Gate(2);
  let inside = 0;
  let most = 0;
  const order: number[] = [];
  const works = Array.from({ length: 9 }, (_, i) =>
    gate.pass(async () => {
      order.push(i);
      most = Math.max(most, ++inside);
      await new Promise((resolve) => setImmediate(resolve));
      inside--;
      if (i % 3 === 0) throw new Error(`${i}`);
      return i;
    }),
  );
  const results = await Promise.allSettled(works);
  expect(results.map(({ status }) => status)).toEqual(
    Array.from({ length: 9 }, (_, i) => (i % 3 ? "fulfilled" : "rejected")),
  );
  expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8]);
  expect([most, inside]).toEqual([2, 0]);
});
