import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Schedulable, Scheduler } from "../../../../gpu-backend/engine/scheduler.ts";
import { ServiceError } from "../../../../shared/errors.ts";

const seed = 1713;
const chunkTokens = 64;

interface Fake extends Schedulable {
  pendingTokens: number;
  left: number;
  boundaries: number[];
  steps: number;
}
const fake = (promptTokens: number, completionTokens: number, scoresPrompt = false): Fake => ({
  pendingTokens: promptTokens,
  left: completionTokens,
  scoresPrompt,
  boundaries: [],
  steps: 0,
});

/** One step as the engine does it; returns S × T of the prefill phase and the sequences that ended. */
function step(scheduler: Scheduler<Fake>): { prefillArea: number; ended: Fake[] } {
  scheduler.admit();
  const ended: Fake[] = [];
  const { chunks, firstRow } = scheduler.prefillPhase();
  expect(firstRow).toBe(scheduler.running - chunks.length);
  const prefillArea = chunks.length * Math.max(0, ...chunks.map((chunk) => chunk.tokens));
  for (const { sequence, tokens } of chunks) {
    sequence.pendingTokens -= tokens;
    sequence.boundaries.push(tokens);
    if (sequence.pendingTokens > 0) continue;
    scheduler.promote(sequence);
    sequence.pendingTokens = 1;
  }
  for (const { sequence } of scheduler.decodePhase().chunks) {
    if (--sequence.left > 0) continue;
    scheduler.remove(sequence);
    ended.push(sequence);
  }
  return { prefillArea, ended };
}

describe("any traffic", () => {
  const arrival = fc.record({
    prompt: fc.integer({ min: 1, max: 400 }),
    completion: fc.integer({ min: 1, max: 40 }),
    scores: fc.boolean(),
    after: fc.integer({ min: 0, max: 6 }),
    cancelled: fc.boolean(),
  });
  test("ends every sequence in bounded time, in order of admission, within slots and budget, and frees every slot", () => {
    console.log(`seed ${seed}`);
    fc.assert(
      fc.property(
        fc.array(arrival, { maxLength: 40 }),
        fc.integer({ min: 1, max: 6 }),
        fc.integer({ min: 64, max: 300 }),
        (arrivals, maxSequences, stepTokens) => {
          const scheduler = new Scheduler<Fake>({ maxSequences, maxQueue: 1000, stepTokens, chunkTokens });
          const queue = [...arrivals];
          const open = new Set<Fake>();
          let idle = 0;
          // Alone each takes ⌈prompt / chunk⌉ + completion steps; one at a time is the worst there is.
          let budget = arrivals.reduce((sum, a) => sum + Math.ceil(a.prompt / 64) + a.completion + a.after + 1, 1);
          while (queue.length > 0 || open.size > 0) {
            expect(budget--).toBeGreaterThan(0);
            if (queue.length > 0 && idle++ >= queue[0].after) {
              idle = 0;
              const { prompt, completion, scores, cancelled } = queue.shift()!;
              const sequence = fake(prompt, completion, scores);
              scheduler.enqueue(sequence);
              if (cancelled) scheduler.remove(sequence);
              else open.add(sequence);
            }
            const { prefillArea, ended } = step(scheduler);
            expect(scheduler.running).toBeLessThanOrEqual(maxSequences);
            expect(prefillArea).toBeLessThanOrEqual(stepTokens);
            for (const sequence of ended) open.delete(sequence);
          }
          expect([scheduler.running, scheduler.waiting]).toEqual([0, 0]);
        },
      ),
      { seed, numRuns: 300 },
    );
  });

  test("cuts a prompt where it would be cut alone, whatever the mates", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 12 }), (prompts) => {
        const scheduler = new Scheduler<Fake>({ maxSequences: 4, maxQueue: 100, stepTokens: 200, chunkTokens });
        const sequences = prompts.map((prompt) => fake(prompt, 3));
        for (const sequence of sequences) scheduler.enqueue(sequence);
        while (scheduler.running + scheduler.waiting > 0) step(scheduler);
        sequences.forEach(({ boundaries }, i) => {
          const whole = Array.from({ length: Math.floor(prompts[i] / 64) }, () => 64);
          expect(boundaries).toEqual(prompts[i] % 64 ? [...whole, prompts[i] % 64] : whole);
        });
      }),
      { seed, numRuns: 200 },
    );
  });
});

test("admits in order of arrival: a later short prompt does not overtake a long one", () => {
  const scheduler = new Scheduler<Fake>({ maxSequences: 8, maxQueue: 8, stepTokens: 128, chunkTokens });
  const [first, second, third, short] = [fake(300, 1), fake(300, 1), fake(300, 1), fake(1, 1)];
  for (const sequence of [first, second, third, short]) scheduler.enqueue(sequence);
  expect(scheduler.admit()).toEqual([first, second]);
  expect(scheduler.admit()).toEqual([]);
});

test("scores one prompt at a time", () => {
  const scheduler = new Scheduler<Fake>({ maxSequences: 8, maxQueue: 8, stepTokens: 512, chunkTokens });
  const [scored, plain, scoredToo] = [fake(10, 1, true), fake(10, 1), fake(10, 1, true)];
  for (const sequence of [scored, plain, scoredToo]) scheduler.enqueue(sequence);
  expect(scheduler.admit()).toEqual([scored, plain]);
  scheduler.promote(scored);
  expect(scheduler.admit()).toEqual([scoredToo]);
});

test("refuses what the queue cannot hold, and says when to come back", () => {
  const scheduler = new Scheduler<Fake>({ maxSequences: 2, maxQueue: 3, stepTokens: 64, chunkTokens });
  for (let i = 0; i < 3; i++) scheduler.enqueue(fake(1, 1));
  const refusal = (() => {
    try {
      scheduler.enqueue(fake(1, 1));
    } catch (error) {
      return error;
    }
  })();
  expect(refusal).toBeInstanceOf(ServiceError);
  expect(refusal).toMatchObject({ kind: "overloaded", retryAfterSeconds: 2 });
  expect((refusal as Error).message).toMatch(/3 of 3/);
});
