/** The plan under random traffic: limits hold, nothing that fits waits, no sequence starves, everything is released. */
import { expect, test } from "vitest";
import { generatedWeight, nextChunk, passLead } from "../../../../gpu-backend/engine/plan.ts";
import { chunkTokens, type Fake, fake, kvOf, Simulation, shape } from "../../../support/plan-simulation.ts";
import { seededRandom } from "../../../support/steps.ts";

const seed = 1719;
const random = seededRandom(seed);
const between = (least: number, most: number) => least + Math.floor(random() * (most - least + 1));
const oneOf = <T>(...values: T[]) => values[between(0, values.length - 1)];

/** How a tenant behaves in the random states below. */
interface Habit {
  tenant: string;
  /** Chance that it sends a sequence at a step. */
  eagerness: number;
  most: number;
  maxPromptTokens: number;
  longestAnswer: number;
}

class RandomRun {
  readonly simulation: Simulation;
  readonly #habits: Habit[];
  readonly #open = new Set<Fake>();
  /** For each waiting sequence that was passed (later ones started before it), the service of all tenants when this was first seen. */
  readonly #passed = new Map<Fake, Map<string, number>>();
  excused = 0;
  waiting = 0;
  /** The most service that another tenant got while a sequence was passed, as a share of the bound. */
  mostPassed = 0;

  constructor() {
    const isScarce = random() < 0.5;
    const limits = { maxSequences: oneOf(1, 2, 4, 8, 24), stepTokens: chunkTokens * between(1, 5) + between(0, 63) };
    const positions = isScarce ? between(1, 6) * shape.contextTokens : 1e6;
    const kv = kvOf(positions, { classPositions: oneOf(0, 200, 2000, Number.POSITIVE_INFINITY) });
    this.simulation = new Simulation(limits, { kv });
    this.#habits = Array.from({ length: between(2, 6) }, (_, i) => ({
      tenant: `t${i}`,
      eagerness: oneOf(0.02, 0.1, 0.5),
      most: oneOf(1, 4, 30),
      maxPromptTokens: oneOf(5, 70, 400),
      longestAnswer: oneOf(2, 20, 100),
    }));
  }

  /** What another tenant may be served while a sequence is passed: `passLead`, and a full batch of sequences that fill the context. */
  get #bound(): number {
    return passLead + generatedWeight * shape.contextTokens * this.simulation.limits.maxSequences;
  }

  step(mayArrive = true): void {
    if (mayArrive) this.#arrivals();
    const { simulation } = this;
    const idle = simulation.waiting.length + simulation.running.length === 0;
    const { prefill, decode, parked, ended, tokens, pairs, passedSince } = simulation.step();
    for (const one of ended) this.#open.delete(one);
    if (prefill.length + decode.length === 0 && !idle) expect.unreachable("a step does nothing");
    // Room that a parked or ended sequence leaves is used in the next step only.
    if (parked.length + ended.length === 0) this.#checkWork(tokens, pairs, passedSince);
    this.#checkPasses(passedSince);
  }

  finish(): void {
    for (let steps = 0; this.#open.size > 0; steps++) {
      expect(steps).toBeLessThan(50_000);
      this.step(false);
    }
    const { waiting, running, service, passedSince } = this.simulation.planner.state;
    expect([waiting.length, running.size, service.size, passedSince.size]).toEqual([0, 0, 0, 0]);
  }

  #arrivals(): void {
    for (const { tenant, eagerness, most, maxPromptTokens, longestAnswer } of this.#habits) {
      const own = [...this.#open].filter((one) => one.tenant === tenant);
      for (let count = own.length; count < most && random() < eagerness; count++) {
        const prefix = random() < 0.2 ? `${tenant}-${between(0, 20)}` : null;
        const one = fake(between(1, maxPromptTokens), between(1, longestAnswer), { tenant, prefix });
        this.#open.add(one);
        this.simulation.enqueue(one);
      }
      if (own.length > 0 && random() < 0.01) {
        this.simulation.planner.remove(own[0]);
        this.#open.delete(own[0]);
      }
    }
  }

  /** Checks that each waiting sequence lacks room, waits for a prefix, or needs room that is reserved for a passed one. */
  #checkWork(tokens: number, pairs: number, passedSince: ReadonlyMap<Fake, number>): void {
    const { simulation } = this;
    const { waiting, running, limits } = simulation;
    const lengths = running.map(({ maxPositions }) => maxPositions);
    this.waiting += waiting.length;
    for (const one of waiting) {
      // The sequence that computes the prefix may have ended in this step.
      if (one.cachedTokens === 0 && one.prefix !== null) continue;
      const isMemory =
        running.length < limits.maxSequences &&
        simulation.kv.holds(
          [...lengths, one.maxPositions],
          simulation.parked.filter((other) => other !== one).map(({ cachedTokens }) => cachedTokens),
        );
      const chunk = nextChunk(one.cachedTokens, one.pendingPromptTokens, chunkTokens);
      if (pairs + chunk * one.cachedTokens > limits.stepTokens ** 2) continue;
      if (!isMemory || chunk > limits.stepTokens - tokens) continue;
      const isKept = [...passedSince].some(([other, since]) => {
        const isOwn = other.tenant === one.tenant;
        return other !== one && (isOwn || simulation.counterOf(one.tenant) > since + passLead);
      });
      if (!isKept)
        expect.unreachable(`${one.tenant} waits, ${running.length} of ${limits.maxSequences} slots are taken`);
      this.excused++;
    }
  }

  /** Checks that no other tenant is served more than the bound while a tenant's only waiting sequence is passed. */
  #checkPasses(passedSince: ReadonlyMap<Fake, number>): void {
    const { served, waiting } = this.simulation;
    const byTenant = [...Map.groupBy(waiting, ({ tenant }) => tenant).values()];
    const lone = new Set(byTenant.filter(({ length }) => length === 1).flat());
    for (const one of this.#passed.keys()) if (!passedSince.has(one) || !lone.has(one)) this.#passed.delete(one);
    for (const one of lone) {
      if (!passedSince.has(one)) continue;
      if (!this.#passed.has(one)) this.#passed.set(one, new Map(served));
      const before = this.#passed.get(one);
      if (!before) continue;
      for (const [tenant, now] of served) {
        if (tenant === one.tenant) continue;
        const part = (now - (before.get(tenant) ?? 0)) / (2 * this.#bound);
        this.mostPassed = Math.max(this.mostPassed, part);
        if (part > 1)
          expect.unreachable(`${tenant} is served ${part} of the bound while one of ${one.tenant} is passed`);
      }
    }
  }
}

test("in 100,000 random states limits are kept, what fits runs, and nobody is passed for longer than the plan says", () => {
  const statesPerRun = 500;
  const totals = { excused: 0, waiting: 0, preemptions: 0, moves: 0, splits: 0, mostPassed: 0 };
  let states = 0;
  while (states < 100_000) {
    const run = new RandomRun();
    for (let i = 0; i < statesPerRun; i++) run.step();
    states += statesPerRun;
    run.finish();
    totals.excused += run.excused;
    totals.waiting += run.waiting;
    totals.preemptions += run.simulation.preemptions;
    totals.moves += run.simulation.moves;
    totals.splits += run.simulation.splits;
    totals.mostPassed = Math.max(totals.mostPassed, run.mostPassed);
  }
  // The random states do reach the cases that the promises are about.
  expect(totals.preemptions).toBeGreaterThan(100);
  expect(totals.moves).toBeGreaterThan(1000);
  expect(totals.splits).toBeGreaterThan(1000);
  expect(totals.excused).toBeLessThan(totals.waiting / 10);
}, 300_000);

test("tenants that always have sequences waiting are served alike, within the bound that the plan states", () => {
  let most = 0;
  for (let run = 0; run < 12; run++) {
    const contextTokens = 128;
    const maxSequences = between(1, 6);
    const kv = random() < 0.5 ? kvOf(between(1, maxSequences) * contextTokens, { contextTokens }) : undefined;
    const simulation = new Simulation({ maxSequences, stepTokens: 2 * chunkTokens }, { kv });
    const tenants = Array.from({ length: between(2, 4) }, (_, i) => ({
      tenant: `t${i}`,
      // More sequences than start in a step, because the counter of a tenant without a waiting sequence is raised to the others'.
      backlog: oneOf(8, 40),
      prompt: oneOf(1, 20, 100),
      answer: oneOf(1, 5, 28),
    }));
    const U = passLead + generatedWeight * contextTokens * maxSequences;
    for (let step = 0; step < 1500; step++) {
      for (const { tenant, backlog, prompt, answer } of tenants) {
        const own = simulation.waiting.filter((one) => one.tenant === tenant).length;
        for (let count = own; count < backlog; count++)
          simulation.enqueue(fake(prompt, between(1, answer), { tenant }));
      }
      simulation.step();
      const served = tenants.map(({ tenant }) => simulation.served.get(tenant) ?? 0);
      most = Math.max(most, (Math.max(...served) - Math.min(...served)) / (2 * U));
      if (most > 1) expect.unreachable(`run ${run}, step ${step}: served ${served}, U is ${U}`);
    }
  }
  expect(most).toBeGreaterThan(0);
}, 300_000);

test("a prompt of 64 chunks and more is ready within the bound that the plan states, whatever its tenant sends meanwhile", () => {
  let most = 0;
  for (let run = 0; run < 24; run++) {
    const [contextTokens, maxSequences, chunks] = [8192, oneOf(4, 24), between(64, 100)];
    const positions = oneOf(2, 64) * contextTokens;
    const kv = kvOf(positions, { contextTokens, classPositions: oneOf(2000, Number.POSITIVE_INFINITY) });
    const limits = { maxSequences, stepTokens: chunkTokens * between(1, 5) + oneOf(0, 32) };
    const simulation = new Simulation(limits, { kv });
    const mostAnswer = oneOf(1, 2, 20);
    const streams = ["t", "u", "v"]
      .slice(0, between(1, 3))
      .map((tenant) => ({ tenant, prompt: oneOf(20, 64, 64, 150) }));
    const long = fake(chunks * chunkTokens, 3);
    simulation.enqueue(long);
    /** The tenant's counter when a sequence arrived, for each sequence that has not started. */
    const arrivals = new Map<Fake, number>();
    let [turn, servedAtTurn, there, parkings] = [Number.POSITIVE_INFINITY, 0, 0, 0];
    for (let step = 0; long.pendingPromptTokens > 0; step++) {
      expect(step).toBeLessThan(30_000);
      for (const { tenant, prompt } of streams) {
        const own = simulation.waiting.filter((one) => one !== long && one.tenant === tenant).length;
        for (let count = own; count < 8; count++) {
          const one = fake(prompt, between(1, mostAnswer), { tenant });
          simulation.enqueue(one);
          arrivals.set(one, simulation.counterOf(tenant));
        }
      }
      const { started, prefill, parked, passedSince } = simulation.step();
      if (parked.includes(long)) parkings++;
      const isServed = prefill.includes(long) || parked.includes(long);
      const late = started.find((one) => one.tenant === "t" && (arrivals.get(one) ?? 0) >= turn);
      if (late && !isServed) expect.unreachable(`run ${run}, step ${step}: a later one starts without a chunk`);
      for (const one of started) arrivals.delete(one);
      turn = (passedSince.get(long) ?? Number.POSITIVE_INFINITY) + chunks * passLead;
      if (servedAtTurn > 0 || simulation.counterOf("t") < turn) continue;
      servedAtTurn = simulation.served.get("t")!;
      for (const one of [...simulation.waiting, ...simulation.running])
        if (one.tenant === "t") there += one.pendingPromptTokens + generatedWeight * one.left;
    }
    if (servedAtTurn === 0 || parkings > 0) continue;
    const ofSteps = chunks * (limits.stepTokens + generatedWeight * maxSequences * mostAnswer);
    most = Math.max(most, (simulation.served.get("t")! - servedAtTurn) / (there + ofSteps));
  }
  expect(most).toBeGreaterThan(0);
  expect(most).toBeLessThanOrEqual(1);
}, 300_000);
