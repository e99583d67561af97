import { deriveSeed, uniformAt } from "../../shared/math/sampling.ts";

/** Separate streams: a change in one stream does not change draws from another. */
export const streams = {
  windows: 2,
  kMeans: 3,
  initialise: 4,
  bootstrap: 5,
  memories: 6,
  placement: 7,
  /** Step s draws from stream `firstStep + s`. */
  firstStep: 1000,
} as const;

/** The same seed and stream give the same draws, so a resumed run needs no saved state. */
export class Random {
  readonly #seed: number;
  #position = 0;

  constructor(seed: number, stream: number) {
    this.#seed = deriveSeed(seed, stream);
  }

  /** Returns a number in [0, 1). */
  uniform(): number {
    return uniformAt(this.#seed, this.#position++);
  }

  /** Returns a whole number in [0, below). */
  integer(below: number): number {
    return Math.floor(this.uniform() * below);
  }

  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    return radius * Math.cos(2 * Math.PI * this.uniform());
  }

  /** Different whole numbers in [0, below), ascending. */
  subset(below: number, count: number): Int32Array {
    return Int32Array.from(this.shuffled([...Array(below).keys()]).slice(0, count)).sort();
  }

  shuffled<T>(items: readonly T[]): T[] {
    const result = [...items];
    for (let i = result.length - 1; i > 0; i--) {
      const j = this.integer(i + 1);
      [result[i], result[j]] = [result[j], result[i]];
    }
    return result;
  }
}
