import { describe, expect, test } from "vitest";
import { AdapterClaims } from "../../../../gpu-backend/engine/adapter-claims.ts";
import { Sequence } from "../../../../gpu-backend/engine/sequence.ts";
import { fakeFullAdapters, sequenceRequest } from "../../../support/engine-harness.ts";
import { fakeConfig } from "../../../support/fake-runner.ts";
import { seededRandom } from "../../../support/steps.ts";

const seed = 1720;
const pool = { slots: 2, rank: 1, write: () => undefined };
const source = fakeFullAdapters(fakeConfig);
const cache = {
  acquire: async (id: string) => ({ adapter: await source.generate(id), cache: "hit" as const }),
  release: () => undefined,
};

/** Of a mixture of these centroids, each of which has directions of its own. The tenant is what `id` has before a colon. */
async function sequenceOf(claims: AdapterClaims, id: string, ...centroids: string[]): Promise<Sequence> {
  const adapters = centroids.map((centroidId) => ({ centroidId, weight: 1 / centroids.length }));
  const request = sequenceRequest(id, [1, 2], { tenant: id.split(":")[0], mixture: { base: 0, adapters } });
  const sequence = new Sequence(request, { ...fakeConfig, pieceOf: () => new Uint8Array() }, 0);
  await claims.acquire([sequence], null, (_, acquired) => {
    if (Array.isArray(acquired)) sequence.adapters = acquired;
  });
  return sequence;
}

test("a mixture takes a slot for each of its adapters, or none", async () => {
  const claims = new AdapterClaims(cache, pool);
  const [one, two] = [await sequenceOf(claims, "one", "c0", "c1"), await sequenceOf(claims, "two", "c1", "c2")];
  const isSeated = claims.slotClaims();
  expect([isSeated(one), isSeated(two)]).toEqual([true, false]);
  expect([one.poolSlots.length, two.poolSlots.length]).toEqual([2, 0]);
  claims.release(one);
  expect(claims.slotClaims()(two)).toBe(true);
});

test("a mixture of more adapters than there are slots is refused: it would wait forever", async () => {
  const claims = new AdapterClaims(cache, pool);
  const sequence = await sequenceOf(claims, "a", "c0", "c1", "c2");
  expect(() => claims.slotClaims()(sequence)).toThrow(/3 are needed, ADAPTER_SLOTS is 2/);
  // The same adapter under two names takes one slot.
  expect(claims.slotClaims()(await sequenceOf(claims, "b", "c0", "c0", "c1"))).toBe(true);
});

test("a mixture gets no more slots than one tenant may pin", async () => {
  const claims = new AdapterClaims(cache, { ...pool, slots: 4 });
  const sequence = await sequenceOf(claims, "a", "c0", "c1", "c2", "c3");
  expect(() => claims.slotClaims()(sequence)).toThrow(/4 are needed, ADAPTER_SLOTS is 4, .* 3\./);
  expect(claims.slotClaims()(await sequenceOf(claims, "b", "c0", "c1", "c2"))).toBe(true);
});

test("a sequence that waits lets other tenants on, but not its own and not for a second slot", async () => {
  const claims = new AdapterClaims(cache, { ...pool, slots: 4 });
  const of = (tenant: string, ...centroids: string[]) => sequenceOf(claims, `${tenant}: ${centroids}`, ...centroids);
  const first = claims.slotClaims();
  for (const centroid of ["c0", "c1", "c2"]) expect(first(await of("a", centroid))).toBe(true);
  expect(first(await of("a", "c3"))).toBe(false);
  expect(first(await of("a", "c0"))).toBe(false);
  expect(first(await of("b", "c9"))).toBe(true);
  expect(first(await of("b", "c9"))).toBe(true);
  expect(first(await of("b", "c0"))).toBe(false);
  expect(first(await of("c", "c0"))).toBe(true);
});

/** One that waits or runs in the random traffic below. */
interface Entry {
  sequence: Sequence;
  needed: number;
  steps: number;
  /** Steps since it is the oldest that waits. */
  oldestFor: number;
  /** Tenants that have started since, while its own pins no slot. */
  passedBy: string[];
}

describe.each([
  ["of one adapter each", 1],
  ["some of several adapters", 3],
])("random traffic of sequences %s", (_, mostAdapters) => {
  test("nobody waits for a slot longer than the claims say", async () => {
    console.log(`seed ${seed}`);
    const random = seededRandom(seed);
    const integer = (least: number, most: number) => least + Math.floor(random() * (most - least + 1));
    const longest = { steps: 0, bound: 0 };
    let waits = 0;
    for (let run = 0; run < 60; run++) {
      const slots = integer(3, 9);
      const reserved = Math.floor(slots / 4);
      const claims = new AdapterClaims(cache, { ...pool, slots });
      const habits = Array.from({ length: integer(2, 7) }, (__, t) => ({
        tenant: `t${t}`,
        eagerness: [0.05, 0.3, 0.9][integer(0, 2)],
        most: [1, 4, 20][integer(0, 2)],
        longest: [1, 20][integer(0, 1)],
        // Its own adapters, or some that tenants share.
        centroids: integer(0, 1) ? { from: 100 * (t + 1), count: 9 } : { from: 0, count: 12 },
      }));
      let waiting: Entry[] = [];
      let running: Entry[] = [];
      const pinning = () => new Set(running.map(({ sequence }) => sequence.tenant));
      for (let step = 0; step < 200; step++) {
        for (const { tenant, eagerness, most, longest: steps, centroids } of habits) {
          const own = [...waiting, ...running].filter(({ sequence }) => sequence.tenant === tenant);
          if (own.length >= most || random() >= eagerness) continue;
          const needed = random() < 0.7 ? 1 : integer(1, Math.min(mostAdapters, slots - reserved));
          const start = integer(0, centroids.count - 1);
          const ids = Array.from({ length: needed }, (__, i) => `c${centroids.from + ((start + i) % centroids.count)}`);
          const sequence = await sequenceOf(claims, `${tenant}: ${step}`, ...ids);
          waiting.push({ sequence, needed, steps: integer(1, steps), oldestFor: 0, passedBy: [] });
        }
        const [oldest] = waiting;
        const isPoor = oldest !== undefined && !pinning().has(oldest.sequence.tenant);
        const claim = claims.slotClaims();
        const started = waiting.filter(({ sequence }) => claim(sequence));
        waiting = waiting.filter((one) => !started.includes(one));
        running.push(...started);
        const pinned = new Set(running.flatMap(({ sequence }) => sequence.adapters.map(({ adapter }) => adapter.hash)));
        expect(pinned.size).toBeLessThanOrEqual(slots);
        waits += waiting.length;
        if (oldest && waiting[0] === oldest) {
          oldest.oldestFor++;
          if (isPoor) oldest.passedBy.push(...started.map(({ sequence }) => sequence.tenant));
          expect(new Set(oldest.passedBy).size, `passed by ${oldest.passedBy}`).toBe(oldest.passedBy.length);
          const bound = (habits.length + 1) * Math.max(...habits.map((habit) => habit.longest));
          expect(oldest.oldestFor).toBeLessThanOrEqual(bound);
          if (oldest.oldestFor > longest.steps) Object.assign(longest, { steps: oldest.oldestFor, bound });
        }
        const tenants = pinning();
        for (const { sequence, needed } of mostAdapters === 1 ? waiting : []) {
          if (needed > 1 || tenants.has(sequence.tenant)) continue;
          expect(tenants.size, `${sequence.id} waits beside few tenants`).toBeGreaterThan(reserved);
        }
        for (const one of running) if (--one.steps === 0) claims.release(one.sequence);
        running = running.filter(({ steps }) => steps > 0);
      }
    }
    console.log(`the longest wait of the oldest is ${longest.steps} steps, its bound ${longest.bound}; ${waits} waits`);
    expect(waits).toBeGreaterThan(10_000);
    expect(longest.steps).toBeGreaterThan(10);
  });
});
