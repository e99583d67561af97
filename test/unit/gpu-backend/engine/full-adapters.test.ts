/** Sequences whose adapters need one of a few pool slots: who waits, for how long, and what it never changes. */
import { setImmediate } from "node:timers/promises";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  createEngineHarness,
  type EngineHarness,
  fakeFullAdapters,
  sequenceRequest,
} from "../../../support/engine-harness.ts";
import { createFakeRunner, fakeConfig } from "../../../support/fake-runner.ts";

const seed = 1718;
const slots = 2;
/** End of text out of reach, so that lengths are what the test says. */
const neverEnds = { logit_bias: [[fakeConfig.endOfTextId, -100]] as [number, number][] };

function harness(rest: Partial<Parameters<typeof createEngineHarness>[0]> = {}): EngineHarness {
  const runner = createFakeRunner({ poolSlots: slots });
  return createEngineHarness({ runner, source: fakeFullAdapters(fakeConfig), ...rest });
}
const requestOf = (id: string, maxTokens: number) => sequenceRequest(id, [1, 2, 3], { maxTokens, sampling: neverEnds });

describe("where every slot is in use", () => {
  test("the next centroid waits until one is free; the base, and who was before, go on", async () => {
    const { engine, tokensOf, finish } = harness();
    await engine.submit("c0", [requestOf("a", 5)]);
    await engine.submit("c1", [requestOf("b", 20)]);
    await engine.submit("c2", [requestOf("c", 5)]);
    await engine.submit(null, [requestOf("base", 5)]);
    for (let i = 0; i < 4; i++) await engine.step();
    // The first step prefills and decodes: two tokens.
    expect(["a", "b", "c", "base"].map((id) => tokensOf(id).length)).toEqual([5, 5, 0, 5]);
    expect(engine.stats).toMatchObject({ waiting: 1, running: 1, pool: { resident: 2, pinned: 1, evictions: 0 } });
    await engine.step();
    expect(tokensOf("c").length).toBeGreaterThan(0);
    expect(engine.stats.pool).toEqual({ slots, resident: 2, pinned: 2, evictions: 1 });
    await finish();
    expect(engine.stats).toMatchObject({ waiting: 0, running: 0, pool: { resident: 2, pinned: 0 } });
  });

  test("nobody starves behind centroids that never let go of theirs", async () => {
    const { engine, tokensOf, finish } = harness();
    const length = 10;
    let startedAfter: number | null = null;
    for (let i = 0; i < 60; i++) {
      await engine.submit("c0", [requestOf(`a${i}`, length)]);
      await engine.submit("c1", [requestOf(`b${i}`, length)]);
      if (i === 20) await engine.submit("c2", [requestOf("late", length)]);
      await engine.step();
      if (startedAfter === null && tokensOf("late").length > 0) startedAfter = i - 20;
    }
    console.log(`started ${startedAfter} steps after it came; sequences take ${length}`);
    expect(startedAfter).not.toBe(null);
    expect(startedAfter).toBeLessThanOrEqual(2 * length);
    await finish();
    expect(tokensOf("late").length).toBe(length);
    for (let i = 0; i < 60; i++) expect([tokensOf(`a${i}`).length, tokensOf(`b${i}`).length]).toEqual([length, length]);
  });

  test("who is cancelled while it waits takes nothing along", async () => {
    const { engine, adapters, lastFrameOf, finish } = harness({ cacheBytes: 0 });
    for (const centroid of ["c0", "c1", "c2", "c3"]) await engine.submit(centroid, [requestOf(centroid, 10)]);
    await engine.step();
    engine.cancel(["c2"]);
    await finish();
    expect(lastFrameOf("c2")).toMatchObject({ type: "error", kind: "cancelled" });
    expect(lastFrameOf("c3")).toMatchObject({ type: "done", completionTokens: 10 });
    expect(engine.stats.pool).toEqual({ slots, resident: 2, pinned: 0, evictions: 1 });
    expect(adapters.stats.entries).toBe(0);
  });
});

describe("a tenant with more adapters than there are slots, and long answers", () => {
  /** Steps until a one-token request of another tenant has its token, several times in a row. */
  async function stepsOf(target: EngineHarness, centroid: string, times: number): Promise<number[]> {
    const waits: number[] = [];
    for (let i = 0; i < times; i++) {
      const id = `${centroid}-victim-${i}`;
      await target.engine.submit(centroid, [{ ...requestOf(id, 1), tenant: "victim" }]);
      let steps = 0;
      while (target.tokensOf(id).length === 0) {
        await target.engine.step();
        steps++;
      }
      waits.push(steps);
    }
    return waits;
  }
  test.each([1, 12])("%i sequences of each: another tenant's requests start in the next step", async (each) => {
    const target = harness({ runner: createFakeRunner({ poolSlots: 8 }), limits: { maxSequences: 128 } });
    for (let own = 0; own < 9; own++) {
      const requests = Array.from({ length: each }, (_, i) => requestOf(`a${own}-${i}`, 400));
      await target.engine.submit(`c${own}`, requests);
    }
    for (let i = 0; i < 5; i++) await target.engine.step();
    const waits = [...(await stepsOf(target, "c20", 3)), ...(await stepsOf(target, "c21", 3))];
    console.log(`steps to the token of each request: ${waits}`);
    expect(Math.max(...waits)).toBe(1);
    // A tenant alone has most of the pool.
    expect(target.engine.stats).toMatchObject({ pool: { pinned: 6 } });
    await target.finish();
    for (let own = 0; own < 9; own++) expect(target.tokensOf(`a${own}-0`).length).toBe(400);
  });
});

test("others decode on while an adapter is being made", async () => {
  const full = fakeFullAdapters(fakeConfig);
  const pauses = 5;
  const { engine, tokensOf, finish } = harness({
    source: {
      ...full,
      async generate(centroidId) {
        for (let i = 0; centroidId === "c1" && i < pauses; i++) await setImmediate();
        return await full.generate(centroidId);
      },
    },
  });
  await engine.submit("c0", [requestOf("a", 20)]);
  const submitted = engine.submit("c1", [requestOf("b", 5)]);
  while (tokensOf("b").length === 0) {
    await engine.step();
    await setImmediate();
  }
  expect(tokensOf("a").length).toBeGreaterThan(pauses);
  expect(tokensOf("a").length).toBeLessThan(20);
  await submitted;
  await finish();
  expect([tokensOf("a").length, tokensOf("b").length]).toEqual([20, 5]);
});

test("a sequence does not wait for an adapter that only another of its micro-batch needs", async () => {
  const full = fakeFullAdapters(fakeConfig);
  const made = Promise.withResolvers<void>();
  let queued = 0;
  const { engine, tokensOf, lastFrameOf, finish } = harness({
    source: { ...full, generate: (id) => made.promise.then(() => full.generate(id)) },
    queued: () => queued++,
  });
  const mixture = { base: 0, adapters: [{ centroidId: "c0", weight: 1 }] };
  const mixed = { ...requestOf("mixed", 0), mixture };
  const overlong = { ...requestOf("overlong", 5), promptIds: new Array(fakeConfig.contextTokens + 1).fill(1) };
  const refused = engine.submit(null, [{ ...mixed, id: "with overlong" }, overlong]);
  expect(lastFrameOf("overlong")?.type).toBe("error");
  const submitted = engine.submit(null, [mixed, requestOf("base", 5), requestOf("none", 0)]);
  // Neither a refusal nor an answer of no tokens needs a step.
  expect([queued, lastFrameOf("none")?.type, lastFrameOf("mixed")]).toEqual([1, "done", undefined]);
  await finish();
  expect(tokensOf("base").length).toBe(5);
  made.resolve();
  await Promise.all([refused, submitted]);
  expect(lastFrameOf("mixed")?.type).toBe("done");
});

test("a graph without a pool refuses, and does not serve the base instead", async () => {
  const { engine, framesOf, finish } = harness({ runner: createFakeRunner() });
  await engine.submit("c0", [requestOf("a", 5)]);
  await finish();
  expect(framesOf("a")).toMatchObject([{ type: "error", kind: "adapter_outdated" }]);
});

test("any traffic gives each sequence what it gets alone, ends all of them, and frees every slot", async () => {
  console.log(`seed ${seed}`);
  const arrival = fc.record({
    centroid: fc.constantFrom(null, "c0", "c1", "c2", "c3", "c4"),
    users: fc.integer({ min: 1, max: 3 }),
    maxTokens: fc.integer({ min: 0, max: 12 }),
    compare: fc.boolean(),
    stepsBefore: fc.integer({ min: 0, max: 4 }),
    cancelAfter: fc.option(fc.integer({ min: 0, max: 8 })),
  });
  const alone = new Map<string, number[]>();
  const aloneTokens = async (centroid: string | null): Promise<number[]> => {
    const key = String(centroid);
    if (!alone.has(key)) {
      const target = harness();
      await target.engine.submit(centroid, [requestOf("a", 12)]);
      await target.finish();
      alone.set(key, target.tokensOf("a"));
    }
    return alone.get(key)!;
  };
  let waited = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(arrival, { minLength: 5, maxLength: 20 }), async (arrivals) => {
      const together = harness({ limits: { maxSequences: 6 }, cacheBytes: 300 });
      const due = new Map<number, string[]>();
      let now = 0;
      const step = async () => {
        together.engine.cancel(due.get(now++) ?? []);
        await together.engine.step();
        if (together.engine.stats.waiting > 0 && together.engine.stats.running < 6) waited++;
        expect(together.engine.stats.pool!.pinned).toBeLessThanOrEqual(slots);
      };
      const idsOf = (i: number) => Array.from({ length: arrivals[i].users }, (_, u) => `s${i}-${u}`);
      for (const [i, a] of arrivals.entries()) {
        for (let s = 0; s < a.stepsBefore; s++) await step();
        const requests = idsOf(i).map((id) => ({ ...requestOf(id, a.maxTokens), compare: a.compare }));
        await together.engine.submit(a.centroid, requests);
        const { cancelAfter } = a;
        if (cancelAfter !== null) due.set(now + cancelAfter, [...(due.get(now + cancelAfter) ?? []), idsOf(i)[0]]);
      }
      // Every step with work to do ends a token at least, so this many suffice; more would be a deadlock.
      for (let s = 0; together.engine.busy; s++) {
        expect(s).toBeLessThan(20 * 3 * 14);
        await step();
      }
      for (const [i, a] of arrivals.entries()) {
        const expected = (await aloneTokens(a.centroid)).slice(0, a.maxTokens);
        for (const id of idsOf(i)) {
          const found = together.tokensOf(id);
          const isDone = together.lastFrameOf(id)?.type === "done";
          if (!isDone) expect(together.lastFrameOf(id)).toMatchObject({ type: "error", kind: "cancelled" });
          expect(found).toEqual(isDone ? expected : expected.slice(0, found.length));
        }
      }
      const { running, waiting, pool, adapters } = together.engine.stats;
      expect({ running, waiting, pinned: pool!.pinned }).toEqual({ running: 0, waiting: 0, pinned: 0 });
      expect(adapters.bytes).toBeLessThanOrEqual(300);
    }),
    { seed, numRuns: 100 },
  );
  console.log(`in ${waited} steps a sequence waited although rows were free`);
  expect(waited).toBeGreaterThan(100);
});
