/**
 * From the losses of test windows to what is claimed of them: means by domain, gains with their intervals over documents,
 * controls. Pure arithmetic. Not here: how the losses were measured (trial.ts), and how they are shown (../report).
 */
import { documentMean, type Gain } from "../bank/gain.ts";
import { Random } from "../random.ts";
import { streams } from "../streams.ts";
import { type coreMethods, type Method, methods, type TrainedMethod, trainedMethods, trainedOf } from "./methods.ts";
import type { PrefixLosses } from "./prefix-lengths.ts";
import type { EvaluationResult } from "./result.ts";
import type { Outcome } from "./trial.ts";

/** A test window, as far as a loss needs explaining. */
export interface ScoredWindow {
  /** Index of its domain. */
  domain: number;
  document: string;
  tokens: number;
}

export interface Domain {
  name: string;
  known: boolean;
  unseen: boolean;
}

/** Of every method that was compared. */
export type Outcomes = Record<(typeof coreMethods)[number], Outcome> & Partial<Record<TrainedMethod, Outcome>>;

/** One seed's outcomes, and the clusters that they share. */
export interface SeedOutcomes {
  seed: number;
  outcomes: Outcomes;
  /** Of each test window. */
  centroidOf: ArrayLike<number>;
  /** Training windows of each centroid. */
  clusterSizes: readonly number[];
}

type Losses = ArrayLike<number>;
type Keep = (window: ScoredWindow, index: number, seed: SeedOutcomes) => boolean;

export class Analysis {
  readonly #windows: readonly ScoredWindow[];
  readonly #domains: readonly Domain[];
  readonly #base: Losses;
  readonly #seeds: readonly SeedOutcomes[];

  constructor(
    windows: readonly ScoredWindow[],
    domains: readonly Domain[],
    base: Losses,
    seeds: readonly SeedOutcomes[],
  ) {
    this.#windows = windows;
    this.#domains = domains;
    this.#base = base;
    this.#seeds = seeds;
  }

  /** What was scored, the base first. */
  methods(): Method[] {
    const [{ outcomes }] = this.#seeds;
    return methods.filter((method) => method === "base" || outcomes[trainedOf(method)]);
  }

  results(): EvaluationResult["results"] {
    return this.methods().flatMap((method) =>
      this.#seeds.flatMap((seed) =>
        this.#domains.flatMap(({ name, known, unseen }, domain) => {
          const losses = this.#lossesOf(method, seed);
          const inDomain: Keep = (window) => window.domain === domain;
          const tokens = this.#tokens(inDomain, seed);
          const nll = this.#mean(losses, inDomain, seed);
          return tokens === 0 ? [] : [{ method, domain: name, known, unseen, seed: seed.seed, nll, tokens }];
        }),
      ),
    );
  }

  /** Mean losses of a method, as perplexities; null where there is no such text. */
  perplexities(method: Method) {
    const over = (keep: Keep) => {
      const means = this.#seeds.map((seed) => this.#mean(this.#lossesOf(method, seed), keep, seed));
      const mean = means.reduce((sum, nats) => sum + nats, 0) / means.length;
      return Number.isNaN(mean) ? null : Math.exp(mean);
    };
    const { ci95 } = this.#bootstrap((seed, i) => this.#lossesOf(method, seed)[i], this.#trained)!;
    return {
      ppl: over(this.#trained)!,
      pplKnown: over((window) => this.#trained(window) && this.#domains[window.domain].known),
      pplNew: over((window) => this.#trained(window) && !this.#domains[window.domain].known),
      pplUnseen: over((window) => !this.#trained(window)),
      ci95: [Math.exp(ci95[0]), Math.exp(ci95[1])] as [number, number],
      pplBySeed: this.#seeds.map((seed) => Math.exp(this.#mean(this.#lossesOf(method, seed), this.#trained, seed))),
    };
  }

  /** Of one method over another, in nats a token, seeds averaged. Over the domains in training unless told otherwise. */
  gain(of: Method, over: Method, keep: Keep = this.#trained): Gain | null {
    return this.#bootstrap((seed, i) => this.#lossesOf(over, seed)[i] - this.#lossesOf(of, seed)[i], keep);
  }

  gains(): EvaluationResult["gains"] {
    return this.#domains.flatMap(({ name }, domain) => {
      const inDomain: Keep = (window) => window.domain === domain;
      const overStatic = this.gain("gated-bank", "static", inDomain);
      const overBase = this.gain("gated-bank", "base", inDomain);
      const shippedOverBase = this.gain("gated-bank-shipped", "base", inDomain);
      return overStatic && overBase && shippedOverBase ? [{ domain: name, overStatic, overBase, shippedOverBase }] : [];
    });
  }

  controls(): EvaluationResult["controls"] {
    const wrong = this.#bootstrap(
      (seed, i) => this.#base[i] - seed.outcomes["gated-bank"].wrongCentroid![i],
      this.#trained,
    )!;
    const without = (left: (seed: SeedOutcomes) => number) => {
      const keep: Keep = (window, i, seed) => this.#trained(window) && seed.centroidOf[i] !== left(seed);
      return { overBase: this.gain("gated-bank", "base", keep)!, overStatic: this.gain("gated-bank", "static", keep)! };
    };
    return {
      wrongCentroid: { gain: wrong, kept: wrong.nats / this.gain("gated-bank", "base")!.nats },
      constantInput: { overStatic: this.gain("constant-input", "static")! },
      withoutLargestCluster: without(({ clusterSizes }) => indexOfLargest(clusterSizes)),
      withoutBestCluster: without((seed) => indexOfLargest(this.#gainsByCentroid(seed))),
    };
  }

  /** By centroid of one seed; null where no test window fell. */
  ofCentroid(seed: SeedOutcomes, centroid: number): { overBase: Gain | null; overStatic: Gain | null } {
    const keep: Keep = (window, i, { seed: number }) =>
      number === seed.seed && this.#trained(window) && seed.centroidOf[i] === centroid;
    return { overBase: this.gain("gated-bank", "base", keep), overStatic: this.gain("gated-bank", "static", keep) };
  }

  readonly #trained = (window: ScoredWindow): boolean => !this.#domains[window.domain].unseen;

  #lossesOf(method: Method, { outcomes }: SeedOutcomes): Losses {
    if (method === "base") return this.#base;
    if (method === "static-shipped") return outcomes.static.shipped!;
    if (method === "gated-bank-shipped") return outcomes["gated-bank"].shipped!;
    return outcomes[method]!.losses;
  }

  /** Nats gained over the static adapter by each centroid of a seed, summed over the domains in training. */
  #gainsByCentroid(seed: SeedOutcomes): number[] {
    const gains = seed.clusterSizes.map(() => 0);
    for (const [i, window] of this.#windows.entries()) {
      if (!this.#trained(window)) continue;
      gains[seed.centroidOf[i]] += seed.outcomes.static.losses[i] - seed.outcomes["gated-bank"].losses[i];
    }
    return gains;
  }

  /** Mean over the windows of all seeds that are kept, documents resampled with all their windows. */
  #bootstrap(value: (seed: SeedOutcomes, index: number) => number, keep: Keep): Gain | null {
    const sums = this.#seeds.flatMap((seed) =>
      this.#windows.flatMap((window, i) =>
        keep(window, i, seed) ? [{ document: window.document, tokens: window.tokens, sum: value(seed, i) }] : [],
      ),
    );
    return documentMean(sums, new Random(1, streams.bootstrap));
  }

  #mean(losses: Losses, keep: Keep, seed: SeedOutcomes): number {
    let nats = 0;
    for (const [i, window] of this.#windows.entries()) if (keep(window, i, seed)) nats += losses[i];
    return nats / this.#tokens(keep, seed);
  }

  #tokens(keep: Keep, seed: SeedOutcomes): number {
    return this.#windows.reduce((sum, window, i) => (keep(window, i, seed) ? sum + window.tokens : sum), 0);
  }
}

/** Learning curves of every method, of the seed that has them. */
export function curvesOf({ outcomes }: SeedOutcomes): EvaluationResult["curves"] {
  return trainedMethods.flatMap((method) => (outcomes[method]?.curve ?? []).map((point) => ({ method, ...point })));
}

/** What the gated bank gains on the same tokens when it is chosen from prefixes of many lengths. */
export function prefixGains(
  prefixes: readonly PrefixLosses[],
  windows: readonly { document: string; tokens: number }[],
): EvaluationResult["prefixLengths"] {
  const base = prefixes.find(({ length }) => length === null)!;
  return prefixes.flatMap(({ length, losses, agreement }) => {
    if (length === null || windows.length === 0) return [];
    const sums = windows.map((window, i) => ({ ...window, sum: base.losses[i] - losses[i] }));
    return [{ length, overBase: documentMean(sums, new Random(1, streams.bootstrap))!, agreement }];
  });
}

function indexOfLargest(values: readonly number[]): number {
  return values.indexOf(Math.max(...values));
}
