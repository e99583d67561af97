/**
 * A machine's cores, shared by all that run there: where there are more jobs than cores, each runs at the same part of its
 * full speed. One job uses one core at most.
 */
import type { EventQueue } from "./events.ts";

interface Job {
  /** Milliseconds of a core. */
  leftMs: number;
  then: () => void;
}

export class Machine {
  readonly #events: EventQueue;
  readonly #cores: number;
  readonly #jobs = new Set<Job>();
  #updatedMs = 0;
  #changes = 0;

  constructor(events: EventQueue, cores: number) {
    this.#events = events;
    this.#cores = cores;
  }

  /** Runs `then` after so many milliseconds of a core. */
  run(ms: number, then: () => void): void {
    this.#update();
    this.#jobs.add({ leftMs: ms, then });
    this.#schedule();
  }

  get #speed(): number {
    return Math.min(1, this.#cores / this.#jobs.size);
  }

  #update(): void {
    const doneMs = (this.#events.nowMs - this.#updatedMs) * this.#speed;
    for (const job of this.#jobs) job.leftMs -= doneMs;
    this.#updatedMs = this.#events.nowMs;
  }

  /** Waits for the job that ends first, unless another job comes before. */
  #schedule(): void {
    const change = ++this.#changes;
    const next = [...this.#jobs].reduce((a, b) => (b.leftMs < a.leftMs ? b : a));
    this.#events.after(next.leftMs / this.#speed, () => {
      if (change !== this.#changes) return;
      this.#update();
      this.#jobs.delete(next);
      if (this.#jobs.size > 0) this.#schedule();
      next.then();
    });
  }
}
