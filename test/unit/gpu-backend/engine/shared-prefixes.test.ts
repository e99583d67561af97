/** The engine over a prefix cache: who computes a prompt and who waits; results never change. */
import fc from "fast-check";
import { expect, test } from "vitest";
import type { SequenceRequest } from "../../../../shared/contracts/inference.ts";
import { createEngineHarness, type EngineHarness, sequenceRequest } from "../../../support/engine-harness.ts";
import { createFakeRunner, fakeConfig } from "../../../support/fake-runner.ts";

const seed = 1721;
const chunk = 64;
/** Bytes of a block of keys and values of the fake model. */
const blockBytes = 2 * fakeConfig.layers * fakeConfig.hiddenSize * chunk * 4;
const neverEnds = { logit_bias: [[fakeConfig.stopIds[0], -100]] as [number, number][] };

const prompt = (length: number, salt = 0) => Array.from({ length }, (_, i) => (i * 7 + salt * 13 + 1) % 90);
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

test("a prompt whose beginning was computed before is prefilled after the last token it has in common, under any centroid, and gets what it gets without", async () => {
  const target = harness();
  await serve(target, request("first", prompt(200)), "c0");
  const next = request("next", [...prompt(150), ...prompt(60, 3)], { sampling: { logprobs: 2 } });
  await serve(target, next, "c1");
  expect([reusedBy(target, "first"), reusedBy(target, "next")]).toEqual([0, 150]);
  expect(prefilledTokens(target)).toBe(200 + 210 - 150);
  expect(target.framesOf("next").slice(0, -1)).toEqual(await aloneWithout(next, "c1"));
  expect(target.engine.stats.prefixes).toMatchObject({ reusedTokens: 150, blocks: 6 });
});

test("a prompt whose beginning was computed before and is no longer still computes its last token: that is where its logits come from", async () => {
  const target = harness();
  for (const id of ["a", "b"]) await serve(target, request(id, prompt(128)));
  expect(reusedBy(target, "b")).toBe(127);
  expect(target.tokensOf("b")).toEqual(target.tokensOf("a"));
});

test("a prompt whose beginning was computed before is a stranger's to another tenant", async () => {
  const target = harness();
  for (const tenant of ["one", "other"]) await serve(target, request(tenant, prompt(200), { tenant }));
  expect(reusedBy(target, "other")).toBe(0);
  expect(prefilledTokens(target)).toBe(400);
  expect(target.engine.stats.prefixes).toMatchObject({ reusedTokens: 0, blocks: 8 });
});

test("a prompt whose beginning was computed before is not kept of an adapter's example, which comes once", async () => {
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

test("a prompt whose beginning was computed before is computed whole where all of it is scored, and serves those after it", async () => {
  const target = harness();
  const scored = request("scored", prompt(200), { promptLogprobs: true });
  for (const one of [request("first", prompt(200)), scored, request("last", prompt(200))]) await serve(target, one);
  expect(["first", "scored", "last"].map((id) => reusedBy(target, id))).toEqual([0, 0, 192]);
  expect(target.framesOf("scored").slice(0, -1)).toEqual(await aloneWithout(scored));
});

test("a prompt whose beginning was computed before is the same for a resumed sequence, whose tokens are decoded again", async () => {
  const target = harness();
  await serve(target, request("whole", prompt(100), { maxTokens: 80 }));
  const continuedIds = target.tokensOf("whole").slice(0, 40);
  for (const id of ["resumed", "again"]) {
    await serve(target, request(id, prompt(100), { maxTokens: 80, continuedIds }));
    expect(target.tokensOf(id)).toEqual(target.tokensOf("whole").slice(40));
  }
  expect([reusedBy(target, "resumed"), reusedBy(target, "again")]).toEqual([99, 99]);
});

const choices = (n: number) =>
  Array.from({ length: n }, (_, i) => request(`s${i}`, prompt(300), { sampling: { temperature: 1, seed: i } }));

test("sequences of one prompt at the same time compute its whole blocks once, and each its own rest, or its last token where that was there", async () => {
  const target = harness();
  await target.engine.submit("c0", choices(8));
  await target.finish();
  // Four sequences start beside the leader and compute its last chunk, too. Three start after it and compute one token each.
  expect(prefilledTokens(target)).toBe(300 + 4 * (300 - 256) + 3);
  for (const one of choices(8)) {
    expect(target.framesOf(one.id).slice(0, -1)).toEqual(await aloneWithout(one, "c0"));
  }
  expect(new Set(choices(8).map(({ id }) => target.tokensOf(id).join())).size).toBe(8);
});

test("sequences of one prompt at the same time hold up nobody else, and short prompts do not wait at all", async () => {
  const target = harness();
  await target.engine.submit(null, choices(3));
  await target.engine.submit(null, [request("other", prompt(20, 9)), request("twin", prompt(20, 9))]);
  await target.engine.step();
  expect(["s0", "s1", "other", "twin"].map((id) => target.tokensOf(id).length)).toEqual([0, 0, 2, 2]);
  await target.finish();
});

test("sequences of one prompt at the same time go on under the next leader where the first is cancelled", async () => {
  const target = harness();
  await target.engine.submit(null, choices(3));
  await target.engine.step();
  await target.engine.step();
  target.engine.cancel(["s0"]);
  await target.finish();
  expect(target.lastFrameOf("s0")).toMatchObject({ kind: "cancelled" });
  expect([reusedBy(target, "s1"), reusedBy(target, "s2")]).toEqual([128, 256]);
  expect(target.engine.stats).toMatchObject({ running: 0, waiting: 0 });
});

test("any traffic in any memory gives each sequence what it gets alone without a cache, and keeps the bound", async () => {
  const arrival = fc.record({
    shared: fc.integer({ min: 1, max: 220 }),
    own: fc.integer({ min: 0, max: 80 }),
    salt: fc.integer({ min: 0, max: 1 }),
    tenant: fc.constantFrom("t", "u"),
    centroid: fc.constantFrom(null, "c0", "c1"),
    temperature: fc.constantFrom(0, 1),
    promptLogprobs: fc.boolean(),
    stepsBefore: fc.integer({ min: 0, max: 3 }),
    cancelled: fc.boolean(),
  });
  let reused = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(arrival, { maxLength: 12 }), fc.integer({ min: 1, max: 8 }), async (arrivals, blocks) => {
      const target = harness({ prefixBytes: blocks * blockBytes, limits: { maxSequences: 5, stepTokens: 130 } });
      const requests = arrivals.map((a, i) =>
        request(`s${i}`, [...prompt(a.shared, a.salt), ...prompt(a.own, i + 2)], {
          tenant: a.tenant,
          promptLogprobs: a.promptLogprobs,
          sampling: { temperature: a.temperature, seed: i, logprobs: 1 },
        }),
      );
      for (const [i, a] of arrivals.entries()) {
        for (let s = 0; s < a.stepsBefore; s++) await target.engine.step();
        await target.engine.submit(a.centroid, [requests[i]]);
        if (a.cancelled) {
          await target.engine.step();
          target.engine.cancel([`s${i}`]);
        }
      }
      await target.finish();
      expect(target.engine.stats).toMatchObject({ running: 0, waiting: 0 });
      expect(target.engine.stats.prefixes!.bytes).toBeLessThanOrEqual(blocks * blockBytes);
      reused += target.engine.stats.prefixes!.reusedTokens;
      for (const [i, one] of requests.entries()) {
        const expected = await aloneWithout(one, arrivals[i].centroid);
        const found = target.framesOf(one.id).slice(0, -1);
        const isCancelled = target.lastFrameOf(one.id)?.type === "error";
        expect(found).toEqual(isCancelled ? expected.slice(0, found.length) : expected);
      }
    }),
    { seed, numRuns: 60 },
  );
  expect(reused).toBeGreaterThan(1000);
});
