import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Schedulable, Scheduler, type SchedulerLimits } from "../../../../gpu-backend/engine/scheduler.ts";
import { KvBudget, positionsFor } from "../../../../gpu-backend/kv/kv-budget.ts";
import type { Move } from "../../../../gpu-backend/kv/slot-table.ts";
import { ServiceError } from "../../../../shared/errors.ts";

const seed = 1713;
const chunkTokens = 64;
const shape = { layers: 1, heads: 1, headWidth: 1, contextTokens: 512 };
const bytesPerPosition = 8;

interface Fake extends Schedulable {
  pendingPromptTokens: number;
  cachedTokens: number;
  left: number;
  boundaries: number[];
  isDecoding: boolean;
  /** Tokens that it finds cached when it first starts. */
  reused: number;
}
let clockMs = 0;
const fake = (promptTokens: number, completionTokens: number, rest: Partial<Fake> = {}): Fake => ({
  tenant: "t",
  dueMs: clockMs++,
  expires: false,
  pendingPromptTokens: promptTokens,
  cachedTokens: 0,
  mostTokens: promptTokens + completionTokens,
  left: completionTokens,
  scoresPrompt: false,
  boundaries: [],
  isDecoding: false,
  reused: 0,
  ...rest,
});
const noBound = { holds: () => true };
const limitsOf = (rest: Partial<SchedulerLimits>): SchedulerLimits => ({
  maxSequences: 8,
  maxQueue: 100_000,
  stepTokens: 512,
  chunkTokens,
  ...rest,
});

/** A scheduler and what an engine does with it, step by step; it follows the moves and checks that they lead home. */
class Simulation {
  readonly scheduler: Scheduler<Fake>;
  /** Who is in each row. */
  readonly rows: Fake[] = [];
  readonly parked = new Set<Fake>();
  admitted: Fake[] = [];

  constructor(limits: Partial<SchedulerLimits>, kv: Pick<KvBudget, "holds"> = noBound) {
    this.scheduler = new Scheduler(limitsOf(limits), kv);
  }

  enqueue(...sequences: Fake[]): void {
    for (const sequence of sequences) this.scheduler.enqueue(sequence);
  }

  admit(): Fake[] {
    const admissions = this.scheduler.admit();
    for (const { sequence, parked, moves } of admissions) {
      if (parked) {
        expect(this.rows[parked.row]).toBe(parked.sequence);
        this.parked.add(parked.sequence);
        this.#close(parked.moves);
      }
      this.rows.push(sequence);
      expect(moves.length === 0 || this.parked.has(sequence)).toBe(true);
      if (!this.parked.delete(sequence)) {
        sequence.cachedTokens = sequence.reused;
        sequence.pendingPromptTokens -= sequence.reused;
      }
      this.#follow(moves);
    }
    this.admitted = admissions.map(({ sequence }) => sequence);
    return this.admitted;
  }

  /** Returns S × T of the prefill phase and the sequences that ended. */
  step(): { prefillArea: number; ended: Fake[] } {
    const { scheduler } = this;
    this.admit();
    const prefilling = this.rows.filter(({ isDecoding }) => !isDecoding);
    const advanced: Fake[] = [];
    let prefillArea = 0;
    for (const { firstRow, begunTokens, chunks } of scheduler.prefillPasses()) {
      const sequences = chunks.map(({ sequence }) => sequence);
      expect(this.rows.slice(firstRow, firstRow + chunks.length)).toEqual(sequences);
      advanced.push(...sequences);
      prefillArea += chunks.length * Math.max(0, ...chunks.map(({ tokens }) => tokens));
      for (const { sequence, tokens } of chunks) {
        expect(sequence.isDecoding).toBe(false);
        expect(sequence.cachedTokens % chunkTokens).toBe(begunTokens);
        sequence.boundaries.push(tokens);
        sequence.cachedTokens += tokens;
        sequence.pendingPromptTokens -= tokens;
        if (sequence.pendingPromptTokens > 0) {
          expect(sequence.cachedTokens % chunkTokens).toBe(0);
          continue;
        }
        sequence.isDecoding = true;
        this.#follow(scheduler.promote(sequence));
      }
    }
    expect(new Set(advanced)).toEqual(new Set(prefilling));
    expect(advanced.length).toBe(prefilling.length);
    const ended: Fake[] = [];
    const { chunks } = scheduler.decodePhase();
    expect(this.rows.slice(0, chunks.length)).toEqual(chunks.map(({ sequence }) => sequence));
    for (const { sequence } of chunks) {
      expect(sequence.isDecoding).toBe(true);
      sequence.cachedTokens++;
      if (--sequence.left > 0) continue;
      this.remove(sequence);
      ended.push(sequence);
    }
    return { prefillArea, ended };
  }

  remove(sequence: Fake): void {
    const moves = this.scheduler.remove(sequence);
    if (moves) this.#close(moves);
    this.parked.delete(sequence);
  }

  finish(): void {
    while (this.scheduler.running + this.scheduler.waiting > 0) this.step();
  }

  #close(moves: readonly Move[]): void {
    this.#follow(moves);
    this.rows.pop();
  }

  #follow(moves: readonly Move[]): void {
    for (const { from, to, swap } of moves) {
      const replaced = this.rows[to];
      this.rows[to] = this.rows[from];
      if (swap) this.rows[from] = replaced;
    }
  }
}

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
  const admissions = scheduler.admit((sequence) => {
    asked.push(sequence);
    return !lacking.has(sequence);
  });
  expect(admissions.map(({ sequence }) => sequence)).toEqual([sequences[1], sequences[4], sequences[3]]);
  expect(new Set(asked).size).toBe(asked.length);
  scheduler.remove(sequences[1]);
  scheduler.remove(sequences[3]);
  expect(scheduler.admit().map(({ sequence }) => sequence)).toEqual([sequences[0], sequences[2]]);
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
  expect(simulation.scheduler.admit().map(({ sequence }) => sequence)).toEqual([scoredToo]);
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
