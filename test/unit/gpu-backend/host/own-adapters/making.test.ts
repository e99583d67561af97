/** The queue of requests for own adapters, in which tenants take turns, and the steps of fits that run at once. */
import { expect, test } from "vitest";
import { FitTurns } from "../../../../../gpu-backend/host/own-adapters/fitter.ts";
import { MakingQueue, maxWaiting } from "../../../../../gpu-backend/host/own-adapters/making-queue.ts";

const never = new AbortController().signal;
/** Lets the promises that are resolved by now call their handlers. */
const settled = () => new Promise(setImmediate);

/** A queue, and in the result also `started`: the tenants whose turn came, in order. `end` ends the running request of a tenant. */
function queueOf() {
  const queue = new MakingQueue("adapters");
  const started: string[] = [];
  const ends = new Map<string, () => void>();
  const enter = (tenant: string, signal = never) =>
    queue.enter(tenant, signal).then((end) => {
      started.push(tenant);
      ends.set(tenant, end);
    });
  const end = async (tenant: string) => {
    ends.get(tenant)!();
    await settled();
  };
  return { queue, started, enter, end };
}

test("a tenant waits in as many places as it leaves free, and the refusal says when to come again", async () => {
  const { queue, enter } = queueOf();
  const outcomes = Array.from({ length: 3 * maxWaiting }, () => enter("hog").then(null, (error) => error));
  const refused = await Promise.all(outcomes.slice(1 + maxWaiting / 2));
  for (const error of refused) expect(error).toMatchObject({ kind: "overloaded" });
  for (const error of refused) expect(error.retryAfterSeconds).toBeGreaterThan(0);
  expect(queue.waiting).toBe(maxWaiting / 2);
  await enter("victim");
});

test("a request whose caller leaves gives its place back at once", async () => {
  const { queue, started, enter, end } = queueOf();
  const caller = new AbortController();
  await enter("a");
  const left = enter("a", caller.signal);
  const next = enter("a");
  caller.abort();
  await expect(left).rejects.toMatchObject({ kind: "cancelled" });
  await expect(enter("b", caller.signal)).rejects.toMatchObject({ kind: "cancelled" });
  expect(queue.waiting).toBe(1);
  await end("a");
  await next;
  expect(started).toEqual(["a", "a"]);
});

test("the next step is that of the fit that computed least; a cancelled fit takes no further one", async () => {
  const turns = new FitTurns();
  const order: string[] = [];
  const make = async (id: number, name: string, steps: number, positions: number) => {
    turns.open(id);
    for (let i = 0; i < steps; i++) await turns.run(id, positions, async () => void order.push(name));
  };
  const long = make(0, "long", 4, 10);
  const short = make(1, "short", 3, 2);
  await short;
  expect(order.filter((name) => name === "long")).toHaveLength(1);
  turns.cancel(0);
  await expect(long).rejects.toThrow("cancelled");
  expect(order.filter((name) => name === "long").length).toBeLessThan(4);
});

test("many small fits, one after another, do not delay a long one that began before them", async () => {
  const turns = new FitTurns();
  const longSteps = 4;
  let isLongDone = false;
  turns.open(0);
  const long = (async () => {
    for (let i = 0; i < longSteps; i++) await turns.run(0, 100, async () => {});
    isLongDone = true;
  })();
  let small = 0;
  while (!isLongDone && small < 50) {
    turns.open(++small);
    await turns.run(small, 1, async () => {});
    turns.cancel(small);
  }
  expect(small).toBeLessThanOrEqual(longSteps + 1);
  await long;
});
