import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MicroBatcher } from "../../../edge/batching/micro-batcher.ts";

const bounds = { awaitingCalls: 3, queuedSequences: 20, sequencesPerCall: 4 };

function drain(batcher: MicroBatcher<number>) {
  const taken: { key: string; entries: number[] }[] = [];
  for (let batch = batcher.take(); batch; batch = batcher.take()) taken.push(batch);
  return taken;
}

describe("MicroBatcher", () => {
  test("sends an idle queue at once, and gathers while its call awaits acceptance", () => {
    const batcher = new MicroBatcher<number>(bounds);
    batcher.enqueue("a", [1]);
    expect(drain(batcher)).toEqual([{ key: "a", entries: [1] }]);
    batcher.enqueue("a", [2]);
    batcher.enqueue("a", [3]);
    batcher.enqueue("b", [4]);
    expect(drain(batcher)).toEqual([{ key: "b", entries: [4] }]);
    batcher.accepted("a");
    expect(drain(batcher)).toEqual([{ key: "a", entries: [2, 3] }]);
  });

  test("splits what exceeds one call, and refuses all of what exceeds the queue", () => {
    const batcher = new MicroBatcher<number>(bounds);
    expect(batcher.enqueue("a", [1, 2, 3, 4, 5, 6])).toBe(true);
    expect(drain(batcher)).toEqual([{ key: "a", entries: [1, 2, 3, 4] }]);
    expect(batcher.queued).toBe(2);
    expect(batcher.enqueue("b", new Array(19).fill(0))).toBe(false);
    expect(batcher.queued).toBe(2);
    expect(batcher.enqueue("b", new Array(18).fill(0))).toBe(true);
  });

  test("is idle again when everything was accepted or removed", () => {
    const batcher = new MicroBatcher<number>(bounds);
    batcher.enqueue("a", [1]);
    drain(batcher);
    batcher.enqueue("a", [2, 3]);
    expect(batcher.remove((entry) => entry > 1)).toBe(2);
    expect(batcher.idle).toBe(false);
    batcher.accepted("a");
    expect(drain(batcher)).toEqual([]);
    expect(batcher.idle).toBe(true);
  });

  test("keeps its promises over any sequence of events", () => {
    const event = fc.oneof(
      fc.record({ type: fc.constant("arrive" as const), key: fc.constantFrom(..."abcde"), count: fc.nat(9) }),
      fc.record({ type: fc.constant("accept" as const), pick: fc.nat() }),
      fc.record({ type: fc.constant("remove" as const), modulus: fc.integer({ min: 2, max: 5 }) }),
    );
    const property = fc.property(fc.array(event, { maxLength: 60 }), (events) => {
      const batcher = new MicroBatcher<number>(bounds);
      const waiting = new Map<string, number[]>(); // the model: what should wait, in order
      const awaiting: string[] = [];
      let next = 0;
      for (const one of events) {
        if (one.type === "arrive") {
          const entries = Array.from({ length: one.count }, () => next++);
          const total = [...waiting.values()].flat().length;
          const fits = total + entries.length <= bounds.queuedSequences;
          expect(batcher.enqueue(one.key, entries)).toBe(fits);
          if (fits) waiting.set(one.key, [...(waiting.get(one.key) ?? []), ...entries]);
        } else if (one.type === "accept" && awaiting.length > 0) {
          const [key] = awaiting.splice(one.pick % awaiting.length, 1);
          batcher.accepted(key);
        } else if (one.type === "remove") {
          const gone = (entry: number) => entry % one.modulus === 0;
          const before = [...waiting.values()].flat().length;
          for (const [key, queue] of waiting)
            waiting.set(
              key,
              queue.filter((entry) => !gone(entry)),
            );
          expect(batcher.remove(gone)).toBe(before - [...waiting.values()].flat().length);
        }
        for (const { key, entries } of drain(batcher)) {
          // One call of a key at a time, no more than allowed of all, none too large.
          expect(awaiting).not.toContain(key);
          awaiting.push(key);
          expect(awaiting.length).toBeLessThanOrEqual(bounds.awaitingCalls);
          expect(entries.length).toBeGreaterThan(0);
          expect(entries.length).toBeLessThanOrEqual(bounds.sequencesPerCall);
          // Nothing lost, doubled or overtaken, within a key or between those that may send.
          const heads = [...waiting].filter(([k, q]) => q.length > 0 && !awaiting.slice(0, -1).includes(k));
          expect(entries[0]).toBe(Math.min(...heads.map(([, q]) => q[0])));
          expect(entries).toEqual(waiting.get(key)!.slice(0, entries.length));
          waiting.set(key, waiting.get(key)!.slice(entries.length));
        }
        // Whoever waits has a reason to.
        for (const [key, queue] of waiting) {
          if (queue.length > 0) expect(awaiting.includes(key) || awaiting.length === bounds.awaitingCalls).toBe(true);
        }
        expect(batcher.queued).toBe([...waiting.values()].flat().length);
        expect(batcher.idle).toBe(awaiting.length === 0 && batcher.queued === 0);
      }
    });
    fc.assert(property, { numRuns: 500 }); // a failure prints its seed
  });

  test("on a simulated clock: nobody waits longer than the acceptance of the call before theirs", () => {
    const acceptanceMs = 8;
    const arrival = fc.record({ atMs: fc.nat(200), key: fc.constantFrom("a", "b", "c") });
    const property = fc.property(fc.array(arrival, { minLength: 1, maxLength: 40 }), (arrivals) => {
      const batcher = new MicroBatcher<number>({ ...bounds, queuedSequences: 99, sequencesPerCall: 99 });
      const acceptances: { atMs: number; key: string }[] = [];
      const waits: number[] = [];
      for (let nowMs = 0; nowMs <= 300; nowMs++) {
        for (const { key } of acceptances.filter(({ atMs }) => atMs === nowMs)) batcher.accepted(key);
        for (const { key } of arrivals.filter(({ atMs }) => atMs === nowMs)) batcher.enqueue(key, [nowMs]);
        for (const { key, entries } of drain(batcher)) {
          for (const arrivedMs of entries) waits.push(nowMs - arrivedMs);
          acceptances.push({ atMs: nowMs + acceptanceMs, key });
        }
      }
      expect(waits).toHaveLength(arrivals.length);
      expect(Math.max(...waits)).toBeLessThanOrEqual(acceptanceMs);
    });
    fc.assert(property, { numRuns: 300 });
  });
});
