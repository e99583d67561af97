/**
 * Parts made of all examples but those of some folds, and what they gain on a fold that was left out. Each is made once:
 * a part made without folds f and g serves the choice that f measures and the choice that g measures. Pure.
 * Shape: M tokens of the support.
 */
import { countsOf, foldsOf, type Observed, positionsOf, sumOf, type TokenCounts } from "./examples.ts";
import type { ExampleGain } from "./held-out-gain.ts";
import { biasGains, biasStrengths, tokenBias } from "./token-bias.ts";

/** Gains by example. */
export type Gains = Map<number, ExampleGain>;

export class FoldParts {
  readonly observed: Observed;
  readonly #folds: number;
  /** Of each example. */
  readonly #counts: TokenCounts[];
  readonly #biases = new Map<string, Float64Array>();
  readonly #gains = new Map<string, Gains[]>();

  constructor(observed: Observed) {
    this.observed = observed;
    this.#counts = countsOf(observed);
    this.#folds = foldsOf(this.#counts.length);
  }

  /** At full strength, [M]. */
  bias(without: readonly number[]): Float64Array {
    return remembered(this.#biases, keyOf(without), () =>
      tokenBias(sumOf(this.#counts.filter((_, i) => !without.includes(i % this.#folds)))),
    );
  }

  /** On the examples of fold `on`, for each of `biasStrengths`. */
  biasGains(without: readonly number[], on: number): Gains[] {
    return remembered(this.#gains, `bias ${keyOf(without)} ${on}`, () => {
      const bias = this.bias(without);
      const at = this.#positions((fold) => fold === on);
      return biasStrengths.map((strength) => biasGains(this.observed, at, scaled(bias, strength)));
    });
  }

  #positions(chosen: (fold: number) => boolean): Int32Array {
    return positionsOf(this.observed, (example) => chosen(example % this.#folds));
  }
}

export function scaled(values: Float64Array, factor: number): Float64Array {
  return Float64Array.from(values, (value) => factor * value);
}

function keyOf(folds: readonly number[]): string {
  return folds.toSorted((a, b) => a - b).join();
}

function remembered<T>(known: Map<string, T>, key: string, make: () => T): T {
  if (!known.has(key)) known.set(key, make());
  return known.get(key)!;
}
