/** The engine over a prefix cache: which sequence computes a prompt, which ones wait for it, and that no result changes. */
import fc from "fast-check";
import { expect, test } from "vitest";
import type { SequenceRequest } from "../../../../shared/contracts/inference.ts";
import { createEngineHarness, type EngineHarness, sequenceRequest } from "../../../support/engine-harness.ts";
import { createFakeRunner, fakeConfig, neverEnds, promptOf as prompt } from "../../../support/fake-runner.ts";

const seed = 1721;
const chunk = 64;
/** Bytes of a block of keys and values of the fake model. */
const blockBytes = 2 * fakeConfig.layers * fakeConfig.hiddenSize * chunk * 4;
const request = (id: string, promptIds: number[], rest: Parameters<typeof sequenceRequest>[2] = {}) =>
  sequenceRequest(id, promptIds, { maxTokens: 5, ...rest, sampling: { ...neverEnds, ...rest.sampling } });
const harness = (options: Partial<Parameters<typeof createEngineHarness>[0]> = {}) =>
  createEngineHarness({ runner: createFakeRunner(), ...options });
const prefilledTokens = ({ reports }: EngineHarness) =>
  reports.filter(({ phase }) => phase === "prefill").reduce((sum, { tokens }) => sum + tokens, 0);
const reusedBy = ({ lastFrameOf }: EngineHarness, id: string) => {
  const frame = lastFrameOf(id);
  return frame?.type === "done" ? frame.reusedTokens : null;
};

async function serve(target: EngineHarness, one: SequenceRequest, centroid: string | null = null) {
  await target.engine.submit(centroid, [one]);
  await target.finish();
}

async function aloneWithout(one: SequenceRequest, centroid: string | null = null) {
  const alone = harness({ prefixBytes: 0 });
  await serve(alone, one, centroid);
  return alone.framesOf(one.id).filter(({ type }) => type !== "done");
}

test("a prompt whose beginning was computed before is prefilled after the last common token, under any centroid, with the same results", async () => {
  const target = harness();
  await serve(target, request("first", prompt(200)), "c0");
  const next = request("next", [...prompt(150), ...prompt(60, 3)], { sampling: { logprobs: 2 } });
  await serve(target, next, "c1");
  expect([reusedBy(target, "first"), reusedBy(target, "next")]).toEqual([0, 150]);
  expect(prefilledTokens(target)).toBe(200 + 210 - 150);
  expect(target.framesOf("next").slice(0, -1)).toEqual(await aloneWithout(next, "c1"));
  expect(target.engine.stats.prefixes).toMatchObject({ reusedTokens: 150, blocks: 6 });
});

test("a tenant does not reuse another tenant's prompt", async () => {
  const target = harness();
  for (const tenant of ["one", "other"]) await serve(target, request(tenant, prompt(200), { tenant }));
  expect(reusedBy(target, "other")).toBe(0);
  expect(prefilledTokens(target)).toBe(400);
  expect(target.engine.stats.prefixes).toMatchObject({ reusedTokens: 0, blocks: 8 });
});

test("the prompt of an adapter's example, which comes once, is not kept in the cache", async () => {
  const target = harness();
  await target.engine.submit(null, [request("example", prompt(200), { maxTokens: 0 })], {
    kind: "hidden",
    from: [1],
    take: () => {},
  });
  await target.finish();
  expect(target.framesOf("example")).toMatchObject([{ type: "done" }]);
  expect(target.engine.stats.prefixes).toMatchObject({ blocks: 0 });
});

const choices = (n: number) =>
  Array.from({ length: n }, (_, i) => request(`s${i}`, prompt(300), { sampling: { temperature: 1, seed: i } }));

test("sequences that share a prompt compute its whole blocks once, then each its rest, or its last token if the rest is cached", async () => {
  const target = harness();
  await target.engine.submit("c0", choices(8));
  await target.finish();
  // One sequence computes the prompt. Four start in the step of its last chunk and compute it, too, three later, with a token each.
  expect(prefilledTokens(target)).toBe(300 + 4 * (300 - 256) + 3);
  for (const one of choices(8)) {
    expect(target.framesOf(one.id).slice(0, -1)).toEqual(await aloneWithout(one, "c0"));
  }
  expect(new Set(choices(8).map(({ id }) => target.tokensOf(id).join())).size).toBe(8);
});

test("any traffic in any memory gives each sequence what it gets alone without a cache, keeps the bounds and gives all slots back", async () => {
  const arrival = fc.record({
    shared: fc.integer({ min: 1, max: 220 }),
    own: fc.integer({ min: 0, max: 80 }),
    salt: fc.integer({ min: 0, max: 1 }),
    maxTokens: fc.integer({ min: 0, max: 80 }),
    tenant: fc.constantFrom("t", "t", "t", "u"),
    centroid: fc.constantFrom(null, "c0", "c1", "off"),
    temperature: fc.constantFrom(0, 0.8),
    promptLogprobs: fc.boolean(),
    compare: fc.boolean(),
    stepsBefore: fc.integer({ min: 0, max: 3 }),
    cancelAfter: fc.option(fc.integer({ min: 0, max: 12 }), { freq: 2 }),
  });
  type Arrival = typeof arrival extends fc.Arbitrary<infer Drawn> ? Drawn : never;
  const requestOf = ({ shared, salt, own, temperature, ...rest }: Arrival, i: number) => {
    const { tenant, maxTokens, promptLogprobs, compare } = rest;
    const sampling = { temperature, seed: i, stop: ["ab"], frequency_penalty: 0.4, logprobs: 1 };
    const promptIds = [...prompt(shared, salt), ...prompt(own, i + 2)];
    return sequenceRequest(`s${i}`, promptIds, { tenant, maxTokens, promptLogprobs, compare, sampling });
  };
  const rowBytes = 512 * 2 * (fakeConfig.layers + 1) * fakeConfig.hiddenSize * 4;
  const kvBytes = 3 * rowBytes;
  let [preemptions, splits, reused] = [0, 0, 0];
  const limitsOf = fc.record({ maxSequences: fc.integer({ min: 2, max: 5 }), stepTokens: fc.constantFrom(130, 200) });
  const traffic = fc.array(arrival, { maxLength: 12, size: "max" });
  await fc.assert(
    fc.asyncProperty(traffic, limitsOf, fc.integer({ min: 0, max: 8 }), async (arrivals, limits, blocks) => {
      const runner = createFakeRunner({ classBytes: 0 });
      const target = harness({ runner, limits, kvBytes, prefixBytes: blocks * blockBytes });
      const { engine } = target;
      const due = new Map<number, string[]>();
      let now = 0;
      const step = async () => {
        engine.cancel(due.get(now++) ?? []);
        const from = runner.steps.length;
        await engine.step();
        if (runner.steps.slice(from).some(({ isSplit }) => isSplit)) splits++;
        expect(engine.stats.kvBytes).toBeLessThanOrEqual(kvBytes);
        expect(engine.stats.prefixes?.bytes ?? 0).toBeLessThanOrEqual(blocks * blockBytes);
      };
      for (const [i, one] of arrivals.entries()) {
        for (let s = 0; s < one.stepsBefore; s++) await step();
        await engine.submit(one.centroid, [requestOf(one, i)]);
        const at = now + (one.cancelAfter ?? Number.POSITIVE_INFINITY);
        due.set(at, [...(due.get(at) ?? []), `s${i}`]);
      }
      while (engine.busy) await step();
      for (const [i, one] of arrivals.entries()) {
        const expected = await aloneWithout(requestOf(one, i), one.centroid);
        const found = target.framesOf(`s${i}`).slice(0, -1);
        const isCancelled = target.lastFrameOf(`s${i}`)?.type === "error";
        expect(found).toEqual(isCancelled ? expected.slice(0, found.length) : expected);
      }
      expect(engine.stats).toMatchObject({ running: 0, waiting: 0, parked: 0 });
      expect(engine.stats.kvBytes).toBeLessThanOrEqual(rowBytes);
      preemptions += engine.stats.preemptions;
      reused += engine.stats.prefixes?.reusedTokens ?? 0;
    }),
    { seed, numRuns: 100 },
  );
  expect(preemptions).toBeGreaterThan(10);
  expect(splits).toBeGreaterThan(50);
  expect(reused).toBeGreaterThan(1000);
}, 60_000);
