/** Drives a planner with fake sequences, and checks each StepPlan against the limits. */
import { expect } from "vitest";
import {
  generatedWeight,
  nextChunk,
  type PlanLimits,
  type Plannable,
  type StepPlan,
} from "../../gpu-backend/engine/plan.ts";
import { Planner } from "../../gpu-backend/engine/planner.ts";
import { KvBudget, positionsFor } from "../../gpu-backend/kv/kv-budget.ts";
import type { KvStore } from "../../gpu-backend/kv/runner.ts";

export const chunkTokens = 64;
export const shape = { arrays: [{ heads: 2, width: 1, bytes: 4 as const }], contextTokens: 512 };
const bytesPerPosition = 8;

export interface Fake extends Plannable {
  pendingPromptTokens: number;
  cachedTokens: number;
  left: number;
  chunks: number[];
  /** Sequences with the same prefix have the same prompt except for the last chunk. */
  prefix: string | null;
}

let clockMs = 0;
export const fake = (promptTokens: number, completionTokens: number, rest: Partial<Fake> = {}): Fake => ({
  tenant: "t",
  dueMs: clockMs++,
  pendingPromptTokens: promptTokens,
  cachedTokens: 0,
  maxPositions: promptTokens + completionTokens,
  left: completionTokens,
  chunks: [],
  prefix: null,
  ...rest,
});

/** `expect` would take longer than a plan. */
const holds = (isTrue: boolean, otherwise: string) => isTrue || expect.unreachable(otherwise);

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);

/** Room for `positions` positions. A step that decodes rows of both length classes costs `classPositions` more. */
export function kvOf(positions: number, options: { contextTokens?: number; classPositions?: number } = {}) {
  const { contextTokens = shape.contextTokens, classPositions = Number.POSITIVE_INFINITY } = options;
  const kvShape = { ...shape, contextTokens };
  const classBytes = classPositions * bytesPerPosition;
  const budget = new KvBudget(kvShape, positions * bytesPerPosition, { classBytes });
  const holds: KvStore["holds"] = (lengths, parked) => budget.holds(lengths, sum(parked));
  return { budget, holds, positions, shape: kvShape };
}

const neededBy = (one: Fake) => Math.min(one.cachedTokens + one.pendingPromptTokens + 1, one.maxPositions);

export class Simulation {
  readonly planner: Planner<Fake>;
  readonly limits: PlanLimits;
  readonly kv: ReturnType<typeof kvOf>;
  /** Service of each tenant: prompt tokens, and generated tokens times `generatedWeight`. */
  readonly served = new Map<string, number>();
  preemptions = 0;
  moves = 0;
  splits = 0;
  #long = new Set<Fake>();
  readonly #computed = new Set<string>();

  constructor(limits: Partial<PlanLimits> = {}, resources: { kv?: ReturnType<typeof kvOf> } = {}) {
    this.limits = { maxSequences: 8, maxQueue: 100_000, stepTokens: 512, chunkTokens, ...limits };
    this.kv = resources.kv ?? kvOf(1e9);
    const prefixes = { reusableTokens: this.#reusableTokens, mustWait: this.mustWait };
    this.planner = new Planner(this.limits, { kv: this.kv, prefixes });
  }

  get waiting(): Fake[] {
    return [...this.planner.state.waiting];
  }

  get running(): Fake[] {
    return [...this.planner.state.running];
  }

  get parked(): Fake[] {
    return this.waiting.filter(({ cachedTokens }) => cachedTokens > 0);
  }

  countOf(tenant: string): number {
    return this.running.filter((one) => one.tenant === tenant).length;
  }

  counterOf(tenant: string): number {
    return this.planner.state.service.get(tenant) ?? 0;
  }

  enqueue(...sequences: Fake[]): void {
    for (const sequence of sequences) this.planner.enqueue(sequence);
  }

  /** Runs a step. `tokens`: prompt tokens. `pairs`: sum over chunks of tokens times tokens cached before. */
  step(): StepPlan<Fake> & { ended: Fake[]; tokens: number; pairs: number } {
    const [waiting, running] = [new Set(this.waiting), new Set(this.running)];
    const plan = this.planner.nextStep();
    holds(running.isSupersetOf(new Set(plan.parked)), "a sequence is parked that does not run");
    holds(waiting.isSupersetOf(new Set(plan.started)), "a sequence starts that does not wait");
    this.#place(running);
    if (new Set(plan.decode.map((one) => this.#long.has(one))).size > 1) this.splits++;
    this.preemptions += plan.parked.length;
    for (const one of plan.started) this.#reuse(one);
    let tokens = 0;
    let pairs = 0;
    for (const { cachedTokens, pendingPromptTokens } of plan.prefill)
      pairs += cachedTokens * nextChunk(cachedTokens, pendingPromptTokens, chunkTokens);
    holds(plan.prefill.length <= 1 || pairs <= this.limits.stepTokens ** 2, `a step attends to ${pairs} pairs`);
    for (const one of plan.prefill) tokens += this.#compute(one);
    holds(tokens <= this.limits.stepTokens, `a step computes ${tokens} prompt tokens`);
    holds(new Set(plan.prefill).size === plan.prefill.length, "a prompt advances twice in a step");
    // Every sequence with a complete prompt decodes, and every started sequence computes something.
    const decoding = this.running.filter((one) => one.pendingPromptTokens === 0);
    const isAll = plan.decode.length === decoding.length && plan.decode.every((one) => decoding.includes(one));
    holds(isAll, "a step decodes other sequences than have their prompts");
    const active = new Set([...plan.prefill, ...plan.decode]);
    holds(active.isSupersetOf(new Set(plan.started)), "a sequence starts and does nothing");
    this.#checkRoom();
    const ended: Fake[] = [];
    for (const one of plan.decode) {
      this.#serve(one.tenant, generatedWeight);
      one.cachedTokens++;
      if (--one.left > 0) continue;
      this.planner.remove(one);
      ended.push(one);
    }
    return { ...plan, ended, tokens, pairs };
  }

  finish(mostSteps = 100_000): void {
    for (let steps = 0; this.waiting.length + this.running.length > 0; steps++) {
      expect(steps).toBeLessThan(mostSteps);
      this.step();
    }
  }

  /** True if another sequence is computing tokens that this one can reuse. */
  mustWait = ({ prefix, pendingPromptTokens }: Fake, starting: readonly Fake[]): boolean => {
    if (prefix === null || this.#computed.has(prefix) || pendingPromptTokens <= chunkTokens) return false;
    const isComputing = (one: Fake) => one.prefix === prefix && one.pendingPromptTokens > 0;
    return [...this.running, ...this.parked, ...starting].some(isComputing);
  };

  #reusableTokens = ({ prefix, pendingPromptTokens }: Fake): number =>
    prefix !== null && this.#computed.has(prefix)
      ? chunkTokens * Math.floor((pendingPromptTokens - 1) / chunkTokens)
      : 0;

  #reuse(one: Fake): void {
    if (one.cachedTokens > 0) return;
    one.cachedTokens = this.#reusableTokens(one);
    one.pendingPromptTokens -= one.cachedTokens;
  }

  /** Divides running sequences into length classes, as the store of keys and values does. */
  #place(ran: ReadonlySet<Fake>): void {
    const rows = this.running.map((one) => ({
      ...{ one, positions: neededBy(one), cachedTokens: one.cachedTokens },
      isLong: ran.has(one) ? this.#long.has(one) : null,
    }));
    const boundary = this.kv.budget.boundaryFor(rows, sum(this.#parkedLengths));
    this.#long = new Set(rows.filter(({ positions }) => positions > boundary).map(({ one }) => one));
    this.moves += rows.filter(({ one, isLong }) => isLong !== null && isLong !== this.#long.has(one)).length;
  }

  get #parkedLengths(): number[] {
    return this.parked.map(({ cachedTokens }) => cachedTokens);
  }

  #compute(one: Fake): number {
    const tokens = nextChunk(one.cachedTokens, one.pendingPromptTokens, chunkTokens);
    holds(tokens > 0, "a prompt advances by nothing");
    one.chunks.push(tokens);
    one.cachedTokens += tokens;
    one.pendingPromptTokens -= tokens;
    if (one.pendingPromptTokens > 0) holds(one.cachedTokens % chunkTokens === 0, "a chunk ends elsewhere");
    else if (one.prefix !== null) this.#computed.add(one.prefix);
    this.#serve(one.tenant, tokens);
    return tokens;
  }

  #serve(tenant: string, amount: number): void {
    this.served.set(tenant, (this.served.get(tenant) ?? 0) + amount);
  }

  #checkRoom(): void {
    const { running } = this;
    holds(running.length <= this.limits.maxSequences, `${running.length} sequences run`);
    const parked = this.#parkedLengths;
    const lengths = running.map(({ maxPositions }) => maxPositions);
    holds(running.length === 0 || this.kv.holds(lengths, parked), "memory does not hold what runs");
    const classes = [running.filter((one) => this.#long.has(one)), running.filter((one) => !this.#long.has(one))];
    const positions = classes.map(
      (rows) => rows.length * positionsFor(Math.max(0, ...rows.map(neededBy)), this.kv.shape),
    );
    holds(positions[0] + positions[1] + sum(parked) <= this.kv.positions, "memory does not hold the length classes");
  }
}
