import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { KvBudget, positionsFor } from "../../../../gpu-backend/kv/kv-budget.ts";
import { ServiceError } from "../../../../shared/errors.ts";
import {
  bytesPerPosition,
  type CostOf,
  chunkTokens,
  type Fake,
  fake,
  noBound,
  Simulation,
  shape,
} from "../../../support/scheduler-simulation.ts";

const seed = 1713;
describe("any traffic", () => {
  const tenants = ["a", "b", "c", "d"];
  const arrival = fc.record({
    tenant: fc.constantFrom("a", "a", "a", ...tenants),
    prompt: fc.integer({ min: 1, max: 400 }),
    shared: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 400 })),
    completion: fc.integer({ min: 1, max: 40 }),
    scores: fc.boolean(),
    after: fc.integer({ min: 0, max: 3 }),
    cancelAfter: fc.option(fc.integer({ min: 0, max: 20 }), { freq: 2 }),
  });
  test("ends in bounded time, each tenant's in their order, within slots, budget and memory; nobody is passed for ever", () => {
    let preemptions = 0;
    let mostPassed = 0;
    fc.assert(
      fc.property(
        fc.array(arrival, { maxLength: 40, size: "max" }),
        fc.integer({ min: 1, max: 6 }),
        fc.integer({ min: 64, max: 600 }),
        fc.integer({ min: 1, max: 8 }),
        (arrivals, maxSequences, stepTokens, contexts) => {
          const positions = contexts * shape.contextTokens;
          const budget = new KvBudget(shape, positions * bytesPerPosition);
          const simulation = new Simulation({ maxSequences, stepTokens }, budget);
          const { scheduler, rows, parked } = simulation;
          const queue = [...arrivals];
          const open = new Set<Fake>();
          const cancelAt = new Map<Fake, number>();
          const started = new Map<string, Fake[]>(tenants.map((tenant) => [tenant, []]));
          /** Turns that others took while a tenant waited with nothing running. */
          const passed = new Map<string, number>();
          let idle = 0;
          let now = 0;
          // Alone each takes ⌈prompt / chunk⌉ + completion steps; one at a time is the worst there is.
          let left = arrivals.reduce((sum, a) => sum + Math.ceil(a.prompt / 64) + a.completion + a.after + 1, 1);
          while (queue.length > 0 || open.size > 0) {
            expect(left--).toBeGreaterThan(0);
            if (queue.length > 0 && idle++ >= queue[0].after) {
              idle = 0;
              const { tenant, prompt, shared, completion, scores, cancelAfter } = queue.shift()!;
              const reused = scores ? 0 : Math.min(shared, prompt - 1);
              const sequence = fake(prompt, completion, { tenant, scoresPrompt: scores, reused });
              simulation.enqueue(sequence);
              open.add(sequence);
              if (cancelAfter !== null) cancelAt.set(sequence, now + cancelAfter);
            }
            for (const [sequence, at] of cancelAt) {
              if (at !== now || !open.delete(sequence)) continue;
              simulation.remove(sequence);
            }
            const isPoor = (tenant: string) =>
              !rows.some((row) => row.tenant === tenant) &&
              [...open].some((sequence) => sequence.tenant === tenant && !rows.includes(sequence));
            const poor = tenants.filter(isPoor);
            const { prefillArea, ended } = simulation.step();
            for (const tenant of tenants) if (!poor.includes(tenant)) passed.delete(tenant);
            const waiting = new Set(poor);
            for (const { tenant: turn } of simulation.admitted) {
              waiting.delete(turn);
              passed.delete(turn);
              for (const tenant of waiting) passed.set(tenant, (passed.get(tenant) ?? 0) + 1);
            }
            for (const count of passed.values()) {
              mostPassed = Math.max(mostPassed, count);
              expect(count).toBeLessThan(tenants.length);
            }
            for (const sequence of simulation.admitted) {
              const before = started.get(sequence.tenant)!;
              if (!before.includes(sequence)) before.push(sequence);
            }
            expect(scheduler.running).toBe(rows.length);
            expect(rows.length).toBeLessThanOrEqual(maxSequences);
            expect(prefillArea).toBeLessThanOrEqual(stepTokens);
            expect(scheduler.parked).toBe(parked.size);
            const longest = rows.reduce((most, { cachedTokens }) => Math.max(most, cachedTokens), 0);
            const aside = [...parked].reduce((sum, { cachedTokens }) => sum + cachedTokens, 0);
            expect(rows.length * positionsFor(longest, shape) + aside).toBeLessThanOrEqual(positions);
            for (const sequence of ended) open.delete(sequence);
            now++;
          }
          for (const order of started.values()) {
            expect(order.map(({ dueMs }) => dueMs)).toEqual(order.map(({ dueMs }) => dueMs).sort((x, y) => x - y));
          }
          expect([scheduler.running, scheduler.waiting, scheduler.parked]).toEqual([0, 0, 0]);
          preemptions += scheduler.preemptions;
        },
      ),
      { seed, numRuns: 400 },
    );
    console.log(`seed ${seed}: ${preemptions} preemptions, passed ${mostPassed} times at most`);
    expect(preemptions).toBeGreaterThan(50);
    expect(mostPassed).toBeGreaterThan(0);
  });

  test("cuts a prompt where it would be cut alone, whatever the mates and however often it was parked", () => {
    const prompts = fc.array(
      fc.record({ length: fc.integer({ min: 1, max: 300 }), tenant: fc.constantFrom("a", "b") }),
      {
        minLength: 1,
        maxLength: 12,
      },
    );
    fc.assert(
      fc.property(prompts, (prompts) => {
        const simulation = new Simulation({ maxSequences: 4, stepTokens: 200 });
        const sequences = prompts.map(({ length, tenant }) => fake(length, 3, { tenant }));
        for (const sequence of sequences) {
          simulation.enqueue(sequence);
          simulation.step();
        }
        simulation.finish();
        sequences.forEach(({ boundaries }, i) => {
          const { length } = prompts[i];
          const whole = Array.from({ length: Math.floor(length / 64) }, () => 64);
          expect(boundaries).toEqual(length % 64 ? [...whole, length % 64] : whole);
        });
      }),
      { seed, numRuns: 200 },
    );
  });
});

describe("between tenants", () => {
  test("one with 1,000 queued and every slot does not hold up one with a single sequence, and loses nothing", () => {
    const simulation = new Simulation({});
    const greedy = Array.from({ length: 1000 }, () => fake(10, 30, { tenant: "greedy" }));
    simulation.enqueue(...greedy);
    for (let i = 0; i < 3; i++) simulation.step();
    const modest = fake(10, 30, { tenant: "modest" });
    simulation.enqueue(modest);
    expect(simulation.admit()).toEqual([modest]);
    expect([...simulation.parked]).toEqual([greedy[7]]);
    const leftThen = greedy[7].left;
    simulation.step();
    expect(greedy[7].left).toBe(leftThen);
    while (greedy[0].left > 0) simulation.step();
    // The first free slot is its own again, before any of its tenant that never ran.
    simulation.admit();
    expect(simulation.rows).toContain(greedy[7]);
    simulation.finish();
    expect(greedy.every(({ left }) => left === 0)).toBe(true);
    expect(modest.left).toBe(0);
  });

  test("slots are shared evenly among those who want them, and nobody is parked for an equal", () => {
    const simulation = new Simulation({ maxSequences: 6 });
    const countOf = (tenant: string) => simulation.rows.filter((row) => row.tenant === tenant).length;
    const many = (tenant: string) => Array.from({ length: 20 }, () => fake(5, 50, { tenant }));
    simulation.enqueue(...many("a"));
    simulation.step();
    simulation.enqueue(...many("b"));
    simulation.step();
    expect([countOf("a"), countOf("b")]).toEqual([3, 3]);
    simulation.enqueue(...many("c"));
    simulation.step();
    expect([countOf("a"), countOf("b"), countOf("c")]).toEqual([2, 2, 2]);
    const { preemptions } = simulation.scheduler;
    simulation.enqueue(...many("d"));
    simulation.step();
    expect([countOf("a"), countOf("b"), countOf("c"), countOf("d")].toSorted()).toEqual([1, 1, 2, 2]);
    for (let i = 0; i < 30; i++) simulation.step();
    expect(simulation.scheduler.preemptions).toBe(preemptions + 1);
  });

  test("one that comes and goes does not get ahead of one that waits", () => {
    const simulation = new Simulation({ maxSequences: 1 });
    simulation.enqueue(fake(1, 5, { tenant: "patient" }));
    simulation.step();
    const patient = fake(1, 1, { tenant: "patient" });
    simulation.enqueue(patient);
    for (let i = 0; patient.left > 0; i++) {
      expect(i).toBeLessThan(6);
      const visitor = fake(1, 1, { tenant: `visitor${i}` });
      simulation.enqueue(visitor);
      simulation.step();
    }
  });

  test("nobody is parked where a sequence as long as the context could not run beside what is parked", () => {
    const one = new KvBudget(shape, shape.contextTokens * bytesPerPosition);
    const simulation = new Simulation({ maxSequences: 3 }, one);
    simulation.enqueue(fake(20, 40, { tenant: "long" }));
    simulation.enqueue(fake(20, 40, { tenant: "greedy" }), fake(20, 40, { tenant: "greedy" }));
    simulation.step();
    simulation.enqueue(fake(400, 100, { tenant: "long" }), fake(20, 40, { tenant: "modest" }));
    for (let i = 0; simulation.scheduler.running + simulation.scheduler.waiting > 0; i++) {
      expect(i).toBeLessThan(300);
      simulation.step();
    }
    expect(simulation.scheduler.preemptions).toBe(0);
  });

  test("nobody is parked where that does not make room: a longer row for all takes more than one row less", () => {
    const two = new KvBudget(shape, 2 * shape.contextTokens * bytesPerPosition);
    const simulation = new Simulation({ stepTokens: 5000 }, two);
    simulation.enqueue(...Array.from({ length: 9 }, () => fake(100, 12, { tenant: "greedy" })));
    simulation.step();
    simulation.step();
    expect(simulation.rows.length).toBe(8); // of 128 positions each
    const long = fake(400, 10, { tenant: "modest" });
    simulation.enqueue(long);
    for (let i = 0; !simulation.rows.includes(long); i++) {
      expect(i).toBeLessThan(12);
      simulation.step();
    }
    simulation.finish();
    expect(simulation.scheduler.preemptions).toBe(0);
  });
});

describe("beside a tenant that has more than its share", () => {
  /** As a processor does; nobody knows it at first. */
  const evenly =
    (baseMs: number, rowMs: number, tokenMs: number): CostOf =>
    (phase, size) =>
      baseMs + size * (phase === "decode" ? rowMs : tokenMs);
  const costs = fc.record({
    baseMs: fc.double({ min: 0.05, max: 10, noNaN: true }),
    rowMs: fc.double({ min: 0.01, max: 3, noNaN: true }),
    tokenMs: fc.double({ min: 0.01, max: 1, noNaN: true }),
  });
  const slowdown = 1.3;
  const endless = 1e9;
  const traffic = fc.record({
    costs,
    quiet: fc.array(fc.integer({ min: 1, max: 150 }), { minLength: 1, maxLength: 4 }),
    heavy: fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 16, maxLength: 26 }),
    tenants: fc.integer({ min: 1, max: 2 }),
  });

  test("whatever a step costs: the others' steps take no longer than they may on the mean, and all of the tenant's go on evenly", () => {
    console.log(`seed ${seed}`);
    let mostSlowed = 0;
    let leastTokens = Number.POSITIVE_INFINITY;
    fc.assert(
      fc.property(traffic, ({ costs: { baseMs, rowMs, tokenMs }, quiet, heavy, tenants }) => {
        const costOf = evenly(baseMs, rowMs, tokenMs);
        const simulation = new Simulation({ maxSequences: 32 }, noBound, costOf);
        const isHeavy = ({ tenant }: Fake) => tenant.startsWith("heavy");
        const heavies = heavy.map((prompt, i) => fake(prompt, endless, { tenant: `heavy${i % tenants}` }));
        simulation.enqueue(...heavies);
        const settled = () => simulation.rows.every(({ isDecoding }) => isDecoding);
        while (simulation.scheduler.waiting > 0 || !settled()) simulation.step();
        const light = quiet.map((prompt) => fake(prompt, endless, { tenant: "quiet" }));
        simulation.enqueue(...light);
        while (simulation.scheduler.waiting > 0 || !settled()) simulation.step();
        // Costs are known by now, or soon.
        for (let i = 0; i < 300; i++) simulation.step();
        const before = heavies.map(({ left }) => left);
        const startMs = simulation.nowMs;
        const steps = 1000;
        for (let i = 0; i < steps; i++) {
          simulation.step();
          for (const sequence of light) expect(simulation.advanced.decode).toContain(sequence);
        }
        const allowed = slowdown * costOf("decode", light.length);
        const stepMs = (simulation.nowMs - startMs) / steps;
        // Of the last row a part may be owed still.
        expect(stepMs).toBeLessThanOrEqual(allowed + rowMs / steps + 1e-9);
        mostSlowed = Math.max(mostSlowed, stepMs / allowed);
        const tokens = heavies.map(({ left }, i) => before[i] - left);
        for (let t = 0; t < tenants; t++) {
          const ofTenant = tokens.filter((_, i) => i % tenants === t);
          expect(Math.max(...ofTenant) - Math.min(...ofTenant)).toBeLessThanOrEqual(32);
          leastTokens = Math.min(
            leastTokens,
            ofTenant.reduce((a, b) => a + b, 0),
          );
        }
        expect(simulation.rows.filter(isHeavy).length).toBe(heavies.length);
      }),
      { seed, numRuns: 40 },
    );
    console.log(`at most ${mostSlowed.toFixed(3)} of what is allowed, at least ${leastTokens} tokens in 1000 steps`);
    expect(mostSlowed).toBeGreaterThan(0.9);
  });

  test("any traffic ends: nobody's prompt and nobody's tokens wait for ever, in any company", () => {
    const arrival = fc.record({
      tenant: fc.constantFrom("a", "a", "a", "a", "b", "c"),
      prompt: fc.integer({ min: 1, max: 400 }),
      completion: fc.integer({ min: 1, max: 40 }),
      after: fc.integer({ min: 0, max: 3 }),
      scores: fc.boolean(),
    });
    let held = 0;
    fc.assert(
      fc.property(fc.array(arrival, { maxLength: 40, size: "max" }), costs, (arrivals, { baseMs, rowMs, tokenMs }) => {
        const simulation = new Simulation({ maxSequences: 6 }, noBound, evenly(baseMs, rowMs, tokenMs));
        const sequences = arrivals.map(({ tenant, prompt, completion, scores }) =>
          fake(prompt, completion, { tenant, scoresPrompt: scores }),
        );
        sequences.forEach((sequence, i) => {
          simulation.enqueue(sequence);
          for (let s = 0; s < arrivals[i].after; s++) simulation.step();
        });
        const { scheduler } = simulation;
        for (let steps = 0; scheduler.running + scheduler.waiting > 0; steps++) {
          expect(steps).toBeLessThan(50_000);
          const { prefillArea } = simulation.step();
          expect(prefillArea).toBeLessThanOrEqual(512 + chunkTokens);
          // No step stands still.
          expect(simulation.advanced.prefill.length + simulation.advanced.decode.length).toBeGreaterThan(0);
        }
        for (const { boundaries, mostTokens } of sequences) {
          let position = 0;
          for (const tokens of boundaries) {
            // A part of a chunk, never of two.
            expect(Math.floor((position + tokens - 1) / chunkTokens)).toBe(Math.floor(position / chunkTokens));
            position += tokens;
          }
          expect(position).toBeLessThanOrEqual(mostTokens);
        }
        held += scheduler.heldRows;
      }),
      { seed, numRuns: 200 },
    );
    console.log(`seed ${seed}: ${held} rows held`);
    expect(held).toBeGreaterThan(1000);
  });

  const steep = evenly(1, 1, 0.5);
  const many = (count: number, tenant: string) => Array.from({ length: count }, () => fake(10, 200, { tenant }));

  test("nothing is held where there is no other, where it has about as many as they, and where a step costs the same anyhow", () => {
    const lonely = new Simulation({}, noBound, steep);
    lonely.enqueue(...many(20, "only"));
    for (let i = 0; i < 300; i++) lonely.step();
    expect(lonely.scheduler.running).toBe(8);
    expect(lonely.scheduler.heldRows).toBe(0);

    const alike = new Simulation({}, noBound, steep);
    alike.enqueue(...many(20, "a"), ...many(16, "b"));
    for (let i = 0; i < 300; i++) alike.step();
    expect(alike.scheduler.running).toBe(8);
    expect(alike.scheduler.heldRows).toBe(0);

    const flat = new Simulation({}, noBound, evenly(10, 0.001, 0.001));
    flat.enqueue(...many(7, "a"));
    for (let i = 0; i < 5; i++) flat.step();
    flat.enqueue(...many(1, "b"));
    // What a step costs must be known first.
    for (let i = 0; i < 3; i++) flat.step();
    const { heldRows } = flat.scheduler;
    for (let i = 0; i < 100; i++) flat.step();
    expect(flat.scheduler.running).toBe(8);
    expect(flat.scheduler.heldRows).toBe(heldRows);
  });

  test("it starts no more sequences than go on in each step, and none of its prompts goes on in one piece beside others", () => {
    const simulation = new Simulation({ maxSequences: 32 }, noBound, steep);
    const quiet = many(2, "quiet");
    simulation.enqueue(...quiet);
    for (let i = 0; i < 10; i++) simulation.step();
    const heavies = Array.from({ length: 10 }, () => fake(64, 50, { tenant: "heavy" }));
    simulation.enqueue(...heavies);
    for (let i = 0; i < 60; i++) {
      simulation.step();
      expect(simulation.rows.length).toBe(3);
      expect(simulation.advanced.decode).toEqual(expect.arrayContaining(quiet));
    }
    expect(heavies[0].boundaries).toEqual([32, 32]);
    expect(heavies[0].left).toBeLessThan(50);
  });

  test("others start past it, also where they run more than it may", () => {
    const simulation = new Simulation({ maxSequences: 32 }, noBound, steep);
    simulation.enqueue(...many(1, "quiet"));
    for (let i = 0; i < 10; i++) simulation.step();
    simulation.enqueue(...many(40, "heavy"));
    for (let i = 0; i < 100; i++) simulation.step();
    const quiet = many(9, "quiet");
    simulation.enqueue(...quiet);
    simulation.step();
    expect(simulation.rows).toEqual(expect.arrayContaining(quiet));
  });

  test("who left a moment ago is still reckoned with, and forgotten soon", () => {
    const simulation = new Simulation({}, noBound, steep);
    simulation.enqueue(...many(7, "heavy"));
    for (let i = 0; i < 3; i++) simulation.step();
    const quiet = fake(5, 20, { tenant: "quiet" });
    simulation.enqueue(quiet);
    while (quiet.left > 0) simulation.step();
    const leftMs = simulation.nowMs;
    simulation.step();
    expect(simulation.advanced.decode.length).toBeLessThan(4);
    while (simulation.nowMs - leftMs < 90) simulation.step();
    expect(simulation.advanced.decode.length).toBeLessThan(4);
    while (simulation.nowMs - leftMs < 110) simulation.step();
    simulation.step();
    expect(simulation.advanced.decode.length).toBe(7);
  });
});

test("within a tenant the first due is first; who is late for its deadline is named while it waits, and not once it runs", () => {
  const simulation = new Simulation({ maxSequences: 1 });
  const [patient, urgent, running] = [
    fake(1, 3, { dueMs: 1000 }),
    fake(1, 3, { dueMs: 50, expires: true }),
    fake(1, 3, { dueMs: 20, expires: true }),
  ];
  simulation.enqueue(patient, urgent, running);
  expect(simulation.admit()).toEqual([running]);
  expect(simulation.scheduler.late(49)).toEqual([]);
  expect(simulation.scheduler.late(50)).toEqual([urgent]);
  expect(simulation.scheduler.late(5000)).toEqual([urgent]);
  simulation.remove(running);
  expect(simulation.admit()).toEqual([urgent]);
});

test("admits in order of arrival: a later short prompt does not overtake a long one", () => {
  const simulation = new Simulation({ stepTokens: 128 });
  const [first, second, third, short] = [fake(300, 1), fake(300, 1), fake(300, 1), fake(1, 1)];
  simulation.enqueue(first, second, third, short);
  expect(simulation.admit()).toEqual([first, second]);
  expect(simulation.admit()).toEqual([]);
});

test("asks each once for whatever else it needs; who lacks it keeps its place and holds up nobody", () => {
  const { scheduler } = new Simulation({ maxSequences: 3 });
  const sequences = ["a", "a", "b", "a", "b"].map((tenant) => fake(1, 1, { tenant }));
  for (const sequence of sequences) scheduler.enqueue(sequence);
  const lacking = new Set([sequences[0], sequences[2]]);
  const asked: Fake[] = [];
  const admissions = scheduler.admit(0, (sequence) => {
    asked.push(sequence);
    return !lacking.has(sequence);
  });
  expect(admissions.map(({ sequence }) => sequence)).toEqual([sequences[1], sequences[4], sequences[3]]);
  expect(new Set(asked).size).toBe(asked.length);
  scheduler.remove(sequences[1]);
  scheduler.remove(sequences[3]);
  expect(scheduler.admit(0).map(({ sequence }) => sequence)).toEqual([sequences[0], sequences[2]]);
});

test("scores one prompt at a time", () => {
  const simulation = new Simulation({});
  const [scored, plain, scoredToo] = [
    fake(10, 1, { scoresPrompt: true }),
    fake(10, 1),
    fake(10, 1, { scoresPrompt: true }),
  ];
  simulation.enqueue(scored, plain, scoredToo);
  expect(simulation.admit()).toEqual([scored, plain]);
  simulation.scheduler.promote(scored);
  expect(simulation.scheduler.admit(0).map(({ sequence }) => sequence)).toEqual([scoredToo]);
});

describe("the queue", () => {
  const refusalOf = (work: () => void): unknown => {
    try {
      work();
    } catch (error) {
      return error;
    }
    return null;
  };

  test("takes of a tenant as many as it leaves free, so that others find places; and says when to come back", () => {
    const { scheduler } = new Simulation({ maxSequences: 2, maxQueue: 6 });
    const enqueue = (tenant: string) => scheduler.enqueue(fake(1, 1, { tenant }));
    for (let i = 0; i < 3; i++) enqueue("greedy");
    const refusal = refusalOf(() => enqueue("greedy"));
    expect(refusal).toBeInstanceOf(ServiceError);
    expect(refusal).toMatchObject({ kind: "overloaded", retryAfterSeconds: 2 });
    expect((refusal as Error).message).toMatch(/3 of 6 places free.*has 3/);
    enqueue("modest");
    enqueue("another");
    expect(refusalOf(() => enqueue("modest"))).toMatchObject({ kind: "overloaded" });
  });

  test("halves what is left with every greedy tenant: 64 places take six of them, and one more sequence", () => {
    const { scheduler } = new Simulation({ maxQueue: 64 });
    const taken = Array.from({ length: 8 }, (_, tenant) => {
      const before = scheduler.waiting;
      while (!refusalOf(() => scheduler.enqueue(fake(1, 1, { tenant: `t${tenant}` }))));
      return scheduler.waiting - before;
    });
    expect(taken).toEqual([32, 16, 8, 4, 2, 1, 1, 0]);
  });
});
