/**
 * Parts made of all examples but those of some folds, and what they gain on a fold that was left out. Each is made once:
 * a part made without folds f and g serves the choice that f measures and the choice that g measures. Pure.
 * Shape: M tokens of the support.
 */
import { countsOf, foldsOf, type Observed, positionsOf, sumOf, type TokenCounts } from "./examples.ts";
import type { ExampleGain } from "./held-out-gain.ts";
import { fitRankOne, type RankOne, rankOneGains } from "./rank-one.ts";
import { biasGains, biasStrengths, tokenBias } from "./token-bias.ts";

/** Shares of the direction that may be applied. */
export const rankOneStrengths: readonly number[] = [0.5, 0.75, 1];

/** Gains by example. */
export type Gains = Map<number, ExampleGain>;

export class FoldParts {
  readonly observed: Observed;
  readonly #folds: number;
  /** Of each example. */
  readonly #counts: TokenCounts[];
  readonly #biases = new Map<string, Float64Array>();
  readonly #rankOnes = new Map<string, RankOne | null>();
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

  /** On top of the bias at `biasStrength`; null where no token occurs often enough. */
  rankOne(without: readonly number[], biasStrength: number): RankOne | null {
    return remembered(this.#rankOnes, `${keyOf(without)} ${biasStrength}`, () => {
      const at = this.#positions((fold) => !without.includes(fold));
      return fitRankOne(this.observed, at, scaled(this.bias(without), biasStrength));
    });
  }

  /** On the examples of fold `on`, for each of `biasStrengths`. */
  biasGains(without: readonly number[], on: number): Gains[] {
    return remembered(this.#gains, `bias ${keyOf(without)} ${on}`, () => {
      const bias = this.bias(without);
      const at = this.#positions((fold) => fold === on);
      return biasStrengths.map((strength) => biasGains(this.observed, at, scaled(bias, strength)));
    });
  }

  /** On the examples of fold `on` on top of the bias at `biasStrength`, for each of `rankOneStrengths`. */
  rankOneGains(without: readonly number[], on: number, biasStrength: number): Gains[] | null {
    const fit = this.rankOne(without, biasStrength);
    if (!fit) return null;
    return remembered(this.#gains, `rank-1 ${keyOf(without)} ${on} ${biasStrength}`, () => {
      const bias = scaled(this.bias(without), biasStrength);
      const at = this.#positions((fold) => fold === on);
      return rankOneGains(this.observed, at, bias, fit, rankOneStrengths);
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
