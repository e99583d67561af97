/** How long a sequence waits for its start and its first token, beside whatever other tenants do. */
import { describe, expect, test } from "vitest";
import { KvBudget } from "../../../../gpu-backend/kv/kv-budget.ts";
import { createEngineHarness, sequenceRequest } from "../../../support/engine-harness.ts";
import { createFakeRunner, fakeConfig } from "../../../support/fake-runner.ts";
import {
  bytesPerPosition,
  type Fake,
  fake,
  noBound,
  Simulation,
  shape,
} from "../../../support/scheduler-simulation.ts";
import { seededRandom } from "../../../support/steps.ts";

const seed = 1719;
const chunkTokens = 64;
const chunksOf = (tokens: number) => Math.ceil(tokens / chunkTokens);

/** Steps until a sequence has its first token. */
function stepsToFirstToken(simulation: Simulation, sequence: Fake): number {
  simulation.enqueue(sequence);
  for (let steps = 1; ; steps++) {
    expect(steps).toBeLessThan(1000);
    simulation.step();
    if (sequence.isDecoding) return steps;
  }
}
const streams = (count: number, tenant: string) => Array.from({ length: count }, () => fake(3, 100_000, { tenant }));

describe.each([
  ["where steps cost nothing", () => 0],
  [
    "where steps cost what they compute",
    (phase: string, size: number) => (phase === "decode" ? 5 + size : 5 + size / 4),
  ],
] as const)("%s, a prompt waits for its own chunks and two steps at most", (_, costOf) => {
  test.each([
    ["64 examples of an adapter beside 8 streams", 8, 3, 128, true],
    ["64 plain prompts beside 16 streams", 16, 3, 128, false],
    ["64 prompts of many chunks beside 8 streams", 8, 300, 400, false],
    ["64 examples of many chunks, beside one that is scored itself", 8, 130, 400, true],
  ])("%s", (name, running, promptTokens, otherTokens, scoresPrompt) => {
    const simulation = new Simulation({ maxSequences: 96, stepTokens: 2 * chunkTokens }, noBound, costOf);
    simulation.enqueue(...streams(running, "b"));
    for (let i = 0; i < 20; i++) simulation.step();
    simulation.enqueue(...Array.from({ length: 64 }, () => fake(otherTokens, 50, { tenant: "a", scoresPrompt })));
    for (let i = 0; i < 3; i++) simulation.step();
    const own = fake(promptTokens, 5, { tenant: "b", scoresPrompt: name.includes("itself") });
    const steps = stepsToFirstToken(simulation, own);
    // What only one at a time can do takes turns.
    const turns = name.includes("itself") ? 2 : 1;
    expect(steps).toBeLessThanOrEqual(turns * chunksOf(promptTokens) + 2);
  });
});

test("the engine's own steps: beside an adapter's examples the next prompt has its token in its chunks and two steps", async () => {
  const neverEnds = { logitBias: [[fakeConfig.endOfTextId, -100]] as [number, number][] };
  const fakeRunner = createFakeRunner();
  const harness = createEngineHarness({
    runner: {
      ...fakeRunner,
      async run(input) {
        const output = await fakeRunner.run(input);
        return { ...output, hidden: new Float32Array(input.headRows.length * fakeConfig.hiddenSize) };
      },
    },
    limits: { stepTokens: 128, chunkTokens: 64, maxSequences: 32 },
  });
  const request = (id: string, tenant: string, length: number, maxTokens: number) => {
    const promptIds = Array.from({ length }, (_, i) => (i * 7 + id.length * 13 + Number(id.slice(1))) % 90);
    return sequenceRequest(id, promptIds, { tenant, maxTokens, sampling: neverEnds });
  };
  await harness.engine.submit(
    null,
    Array.from({ length: 8 }, (_, i) => request(`s${i}`, "b", 3, 400)),
  );
  for (let i = 0; i < 5; i++) await harness.engine.step();
  const examples = Array.from({ length: 64 }, (_, i) => request(`x${i}`, "a", 128, 0));
  await harness.engine.submit(null, examples, () => {});
  for (let i = 0; i < 3; i++) await harness.engine.step();
  await harness.engine.submit(null, [request("n1", "b", 3, 5)]);
  let steps = 0;
  while (harness.tokensOf("n1").length === 0) {
    expect(++steps).toBeLessThanOrEqual(3);
    await harness.engine.step();
  }
  await harness.finish();
  for (const { id } of examples) expect(harness.lastFrameOf(id)?.type).toBe("done");
});

/** What a tenant does in the random states below. */
interface Habit {
  tenant: string;
  /** Chance of sending something at a step. */
  eagerness: number;
  most: number;
  longestPrompt: number;
  longestAnswer: number;
  scores: number;
}

/** One random run: arrivals and cancellations of a few tenants, with what was promised checked at every step. */
class RandomRun {
  readonly #random: () => number;
  readonly #simulation: Simulation;
  readonly #limits: { maxSequences: number; stepTokens: number };
  readonly #budget: KvBudget | null;
  readonly #habits: Habit[];
  readonly #isCosting: boolean;
  readonly #open = new Set<Fake>();
  /** In which order sequences started, or started again. */
  readonly #startOf = new Map<Fake, number>();
  #starts = 0;
  /** Of each prefilling sequence that is its tenant's first: steps it stood still, and how many it may. */
  readonly #still = new Map<Fake, { steps: number; most: number }>();
  /** By whom a sequence that waits for room was passed. */
  readonly #passedBy = new Map<Fake, string[]>();
  /** The same since its tenant has nothing running. */
  readonly #poorPassedBy = new Map<Fake, string[]>();
  mostStill = 0;
  passes = 0;
  roomless = 0;

  constructor(random: () => number) {
    const between = (least: number, most: number) => least + Math.floor(random() * (most - least + 1));
    this.#random = random;
    this.#limits = { maxSequences: between(1, 24), stepTokens: chunkTokens * between(1, 5) + between(0, 63) };
    const isScarce = random() < 0.5;
    this.#budget = isScarce ? new KvBudget(shape, between(1, 6) * shape.contextTokens * bytesPerPosition) : null;
    this.#isCosting = random() < 0.4;
    const [rowMs, tokenMs] = [random() * 3, random()];
    const costOf = (phase: string, size: number) => 1 + size * (phase === "decode" ? rowMs : tokenMs);
    this.#simulation = new Simulation(this.#limits, this.#budget ?? noBound, this.#isCosting ? costOf : () => 0);
    this.#habits = Array.from({ length: between(2, 6) }, (_, i) => ({
      tenant: `t${i}`,
      eagerness: [0.02, 0.1, 0.5][between(0, 2)],
      most: [1, 1, 4, 30][between(0, 3)],
      longestPrompt: [5, 70, 400][between(0, 2)],
      longestAnswer: [2, 20, 100][between(0, 2)],
      scores: [0, 0, 0.5][between(0, 2)],
    }));
  }

  step(): void {
    this.#arrivals();
    const simulation = this.#simulation;
    const { scheduler, rows } = simulation;
    const lone = this.#loneTenants();
    const { preemptions } = scheduler;
    const waiting = this.#firstWaiting();
    const poor = waiting.filter(({ tenant }) => !rows.some((row) => row.tenant === tenant));
    const { prefillArea, ended } = simulation.step();
    for (const sequence of ended) this.#open.delete(sequence);
    for (const sequence of simulation.admitted) this.#startOf.set(sequence, this.#starts++);
    expect(prefillArea).toBeLessThanOrEqual(this.#limits.stepTokens + (this.#isCosting ? chunkTokens : 0));
    this.#checkPasses(waiting, poor);
    this.#checkStanding(lone);
    // What an end or a parking has made room for starts in the next step.
    if (ended.length === 0 && scheduler.preemptions === preemptions) this.#checkStarts(lone);
    expect(scheduler.running).toBe(rows.length);
  }

  #arrivals(): void {
    const integer = (most: number) => 1 + Math.floor(this.#random() * most);
    for (const habit of this.#habits) {
      const own = [...this.#open].filter(({ tenant }) => tenant === habit.tenant);
      while (own.length < habit.most && this.#random() < habit.eagerness) {
        const prompt = integer(habit.longestPrompt);
        const scoresPrompt = this.#random() < habit.scores;
        const sequence = fake(prompt, integer(habit.longestAnswer), { tenant: habit.tenant, scoresPrompt });
        own.push(sequence);
        this.#open.add(sequence);
        this.#simulation.enqueue(sequence);
      }
      if (own.length > 0 && this.#random() < 0.01) {
        const [gone] = own;
        this.#simulation.remove(gone);
        this.#open.delete(gone);
      }
    }
  }

  /** Tenants with one sequence: they have no more than their share. */
  #loneTenants(): Set<string> {
    const byTenant = Map.groupBy(this.#open, ({ tenant }) => tenant);
    return new Set([...byTenant].filter(([, own]) => own.length === 1).map(([tenant]) => tenant));
  }

  /** First in its tenant's queue, by the tenant. */
  #firstWaiting(): Fake[] {
    const { rows } = this.#simulation;
    const waiting = [...this.#open].filter((sequence) => !rows.includes(sequence));
    const byTenant = Map.groupBy(waiting, ({ tenant }) => tenant);
    return [...byTenant.values()].map((own) => own.reduce((a, b) => (b.dueMs < a.dueMs ? b : a)));
  }

  /** While a tenant with nothing running waits for room, each other tenant starts one sequence at most. */
  #checkPasses(waiting: readonly Fake[], poor: readonly Fake[]): void {
    const tenants = this.#simulation.admitted.map(({ tenant }) => tenant);
    const noted: [Map<Fake, string[]>, readonly Fake[]][] = [
      // Whoever became the first of its tenant in this step may have been passed since.
      [this.#passedBy, [...new Set([...waiting, ...this.#firstWaiting()])]],
      [this.#poorPassedBy, poor],
    ];
    for (const [passedBy, some] of noted) {
      for (const sequence of passedBy.keys()) if (!some.includes(sequence)) passedBy.delete(sequence);
      for (const sequence of some) {
        if (this.#simulation.admitted.includes(sequence)) continue;
        passedBy.set(sequence, [...(passedBy.get(sequence) ?? []), ...tenants]);
      }
    }
    for (const [{ tenant }, by] of this.#poorPassedBy) {
      this.passes += by.length;
      if (new Set(by).size < by.length) expect.unreachable(`${tenant} was passed by ${by}`);
    }
  }

  /** A tenant's first prompt goes on at least every ⌈T/M⌉ steps, one that is scored after each other that is, too. */
  #checkStanding(lone: ReadonlySet<string>): void {
    const { rows, advanced } = this.#simulation;
    const M = Math.floor(this.#limits.stepTokens / chunkTokens);
    const wentOn = new Set(advanced.prefill);
    // One that was parked in this step has left the phase.
    const prefilling = [...new Set([...rows.filter(({ isDecoding }) => !isDecoding), ...wentOn])];
    const byTenant = Map.groupBy(prefilling, ({ tenant }) => tenant);
    const T = byTenant.size;
    const scored = [...byTenant.values()].filter((own) => own.some(({ scoresPrompt }) => scoresPrompt)).length;
    const inRows = new Set(rows);
    for (const sequence of this.#still.keys()) if (!inRows.has(sequence)) this.#still.delete(sequence);
    for (const [tenant, own] of byTenant) {
      const went = own.find((sequence) => wentOn.has(sequence));
      if (went) {
        for (const sequence of own) this.#still.delete(sequence);
        continue;
      }
      // Who has more than its share is held back on purpose.
      if (this.#isCosting && !lone.has(tenant)) continue;
      const first = own.reduce((a, b) => (this.#startOf.get(b)! < this.#startOf.get(a)! ? b : a));
      const still = this.#still.get(first) ?? { steps: 0, most: 0 };
      still.most = Math.max(still.most, Math.ceil(T / M) - 1 + (first.scoresPrompt ? scored - 1 : 0));
      still.steps++;
      this.#still.set(first, still);
      this.mostStill = Math.max(this.mostStill, still.steps);
      expect(still.steps, `${first.tenant} of ${T} tenants, ${M} chunks a step`).toBeLessThanOrEqual(still.most);
    }
  }

  /** The only sequence of a tenant waits for a slot, for memory, or as its tenant has passed one that waits for these. */
  #checkStarts(lone: ReadonlySet<string>): void {
    const { rows, parked } = this.#simulation;
    const firsts = this.#firstWaiting();
    const isRoomFor = (next: Fake) => {
      if (rows.length === this.#limits.maxSequences) return false;
      const longest = rows.reduce((most, { mostTokens }) => Math.max(most, mostTokens), next.mostTokens);
      const aside = [...parked].reduce((sum, one) => sum + (one === next ? 0 : one.cachedTokens), 0);
      return this.#budget === null || this.#budget.holds(rows.length + 1, longest, aside);
    };
    const waiting = new Set(firsts.filter((sequence) => !isRoomFor(sequence)));
    this.roomless += waiting.size;
    // Grows while it is gone through: who may not pass one of them waits, too.
    for (const one of waiting) {
      const by = this.#passedBy.get(one) ?? [];
      for (const next of firsts) if (by.includes(next.tenant)) waiting.add(next);
    }
    for (const next of firsts) {
      // Of a lone tenant nothing is before it.
      if (!lone.has(next.tenant) || waiting.has(next)) continue;
      expect.unreachable(`${next.tenant} waits with ${rows.length} of ${this.#limits.maxSequences} slots taken`);
    }
  }
}

test("in 100,000 random states nobody stands still, waits or is passed for longer than the scheduler says", () => {
  console.log(`seed ${seed}`);
  const random = seededRandom(seed);
  const statesPerRun = 250;
  const totals = { mostStill: 0, passes: 0, roomless: 0 };
  let states = 0;
  const startedMs = performance.now();
  while (states < 100_000) {
    const run = new RandomRun(random);
    for (let i = 0; i < statesPerRun; i++) run.step();
    states += statesPerRun;
    totals.mostStill = Math.max(totals.mostStill, run.mostStill);
    totals.passes += run.passes;
    totals.roomless += run.roomless;
  }
  const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
  console.log(`${states} states in ${seconds} s: ${JSON.stringify(totals)}`);
  // The states are such that there is something to promise.
  expect(totals.mostStill).toBeGreaterThan(2);
  expect(totals.passes).toBeGreaterThan(1000);
  expect(totals.roomless).toBeGreaterThan(1000);
}, 120_000);
