import { ServiceError } from "../../shared/errors.ts";
import {
  generatedWeight,
  type PlanLimits,
  type Plannable,
  type PlanResources,
  type PlanState,
  plan,
  type StepPlan,
} from "./plan.ts";

export class Planner<S extends Plannable> {
  readonly #limits: PlanLimits;
  readonly #resources: PlanResources<S>;
  #waiting: S[] = [];
  readonly #running = new Set<S>();
  #service = new Map<string, number>();
  #passedSince = new Map<S, number>();

  constructor(limits: PlanLimits, resources: PlanResources<S>) {
    if (limits.stepTokens < limits.chunkTokens) {
      throw new Error(`stepTokens is ${limits.stepTokens}, one chunk alone has ${limits.chunkTokens}`);
    }
    this.#limits = limits;
    this.#resources = resources;
  }

  get state(): PlanState<S> {
    return { waiting: this.#waiting, running: this.#running, service: this.#service, passedSince: this.#passedSince };
  }

  /** Throws `overloaded` if the tenant's part of the queue is full. */
  enqueue(sequence: S): void {
    const { maxQueue, maxSequences } = this.#limits;
    const { tenant } = sequence;
    const own = this.#waiting.filter((one) => one.tenant === tenant).length;
    const free = maxQueue - this.#waiting.length;
    if (own >= free) {
      const message = `The queue has ${free} of ${maxQueue} places free, and a tenant may take as many as it leaves: this one has ${own}.`;
      // Estimate: a second for each full batch in the queue.
      throw new ServiceError("overloaded", message, {
        retryAfterSeconds: Math.ceil((maxQueue - free + 1) / maxSequences),
      });
    }
    if (own === 0) this.#lift(tenant);
    this.#insert(sequence);
  }

  /** The caller must execute the step. */
  nextStep(): StepPlan<S> {
    const step = plan(this.state, this.#limits, this.#resources);
    for (const sequence of step.parked) {
      this.#running.delete(sequence);
      this.#insert(sequence);
    }
    for (const sequence of step.started) this.#running.add(sequence);
    this.#waiting = this.#waiting.filter((one) => !this.#running.has(one));
    this.#service = step.service;
    this.#passedSince = step.passedSince;
    return step;
  }

  /** Counts more decoded tokens than the one of the step. */
  decoded({ tenant }: S, moreTokens: number): void {
    const counter = this.#service.get(tenant);
    if (counter !== undefined) this.#service.set(tenant, counter + generatedWeight * moreTokens);
  }

  /** The sequence starts again from its first token. */
  restart(sequence: S): void {
    this.#running.delete(sequence);
    this.#passedSince.delete(sequence);
    this.#insert(sequence);
  }

  remove(sequence: S): void {
    if (!this.#running.delete(sequence)) this.#waiting = this.#waiting.filter((one) => one !== sequence);
    this.#passedSince.delete(sequence);
    if (this.#waiting.length + this.#running.size === 0) this.#service.clear();
  }

  #insert(sequence: S): void {
    const after = this.#waiting.findLastIndex(({ dueMs }) => dueMs <= sequence.dueMs);
    this.#waiting.splice(after + 1, 0, sequence);
  }

  /** Raises a tenant's counter to the lowest counter of waiting tenants, or to the highest of all if no tenant waits. */
  #lift(tenant: string): void {
    const waiting = new Set(this.#waiting.map((one) => one.tenant));
    const counters = waiting.size === 0 ? this.#service.values() : [...waiting].map((one) => this.#service.get(one)!);
    const level = waiting.size === 0 ? Math.max(0, ...counters) : Math.min(...counters);
    const active = waiting.union(new Set([...this.#running].map((one) => one.tenant)));
    // Inactive tenants at or below this level need no counter, because they would be raised to it.
    for (const [name, counter] of this.#service) if (counter <= level && !active.has(name)) this.#service.delete(name);
    this.#service.set(tenant, Math.max(this.#service.get(tenant) ?? 0, level));
  }
}
