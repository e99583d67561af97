/** One trial: trains one method with one seed, and scores the test windows in every way that the method is scored. */
import { LossMeter } from "../bank/loss.ts";
import { type Adapters, adaptedLosses, chooseScales } from "../bank/measure.ts";
import type { Parameters } from "../bank/parameters.ts";
import { Trainer } from "../bank/trainer.ts";
import type { Split } from "../corpus/splits.ts";
import { scoredTokens } from "../corpus/windows.ts";
import { assignAll } from "../embed.ts";
import type { Placed, Prepared } from "../prepare.ts";
import type { Progress } from "../progress.ts";
import { Random } from "../random.ts";
import { streams } from "../streams.ts";
import { batchMeanLosses } from "./batch-mean.ts";
import { type MethodPlan, paperNetwork, type TrainedMethod } from "./methods.ts";
import { type PrefixLosses, prefixLosses } from "./prefix-lengths.ts";

/** What a trial leaves behind: numbers alone, so that it can be kept on disk. Losses are sums of nats per test window. */
export interface Outcome extends Scores {
  learningRate: number;
  /** Validation loss after so many steps; of the first seed alone. */
  curve: { step: number; nats: number }[];
  seconds: number;
}

interface Scores {
  /** Mean loss on validation at full strength, nats a token. */
  validation: number;
  losses: number[];
  /** At the scales that would be shipped: static and gated bank alone. */
  shipped: number[] | null;
  scales: number[] | null;
  /** Under another centroid's adapter: gated bank alone. */
  wrongCentroid: number[] | null;
  /** Of the gated bank with the first seed. */
  prefixes: PrefixLosses[] | null;
}

export interface TrialContext {
  prepared: Prepared;
  steps: number;
  threads: number;
  progress: Progress;
  /** Milliseconds, for the record of how long things took. */
  now: () => number;
  signal?: AbortSignal;
}

export interface TrialOptions {
  seed: number;
  learningRate: number;
  /** Also a learning curve, and prefixes of many lengths. */
  detailed: boolean;
}

/** Points of a learning curve, and the validation windows each is measured on. */
const curvePoints = 8;
const curveWindows = 96;

/** Throws the signal's reason when aborted: a trial is done whole or not at all. */
export async function runTrial(
  method: TrainedMethod,
  plan: MethodPlan,
  placed: Placed,
  options: TrialOptions,
  context: TrialContext,
): Promise<Outcome> {
  const { prepared, steps, threads, progress, now } = context;
  const { seed, learningRate, detailed } = options;
  const startMs = now();
  const meter = await LossMeter.open(prepared.head, plan.measured, threads);
  const scorer = new Scorer(method, plan, meter, placed, context);
  try {
    const trainerOptions = { seed, steps, learningRate, input: plan.input, threads };
    const clusters = { centroids: placed.centroids.vectors, memberOf: placed.memberOf };
    const trainer = await Trainer.open(plan.kind, placed.sets.train, clusters, trainerOptions, null);
    const curve: Outcome["curve"] = [];
    const pointEvery = Math.ceil(steps / curvePoints);
    try {
      progress.stage(`${method}, seed ${seed}`, steps);
      for (let step = 0; step < steps; step++) {
        const { parameters } = trainer.state;
        if (detailed && step % pointEvery === 0) curve.push({ step, nats: await scorer.curvePoint(parameters) });
        const loss = await trainer.step();
        progress.advance(step + 1, `loss ${loss.toFixed(3)}`);
        context.signal?.throwIfAborted();
      }
    } finally {
      await trainer.release();
    }
    const { parameters } = trainer.state;
    if (detailed) curve.push({ step: steps, nats: await scorer.curvePoint(parameters) });
    const scores = await scorer.score(parameters, seed, detailed);
    return { learningRate, ...scores, curve, seconds: (now() - startMs) / 1000 };
  } finally {
    await meter.release();
  }
}

/** Measures one method's parameters, trained or half trained. */
class Scorer {
  readonly #method: TrainedMethod;
  readonly #plan: MethodPlan;
  readonly #meter: LossMeter;
  readonly #placed: Placed;
  readonly #prepared: Prepared;

  constructor(method: TrainedMethod, plan: MethodPlan, meter: LossMeter, placed: Placed, { prepared }: TrialContext) {
    this.#method = method;
    this.#plan = plan;
    this.#meter = meter;
    this.#placed = placed;
    this.#prepared = prepared;
  }

  /** Mean loss on a few validation windows, the same each time. */
  async curvePoint(parameters: Parameters): Promise<number> {
    const { windows } = this.#placed.sets.validation;
    const every = Math.max(1, Math.floor(windows.length / curveWindows)); // they lie in the order of the corpora
    const indexes = [...windows.keys()].filter((i) => i % every === 0);
    return this.#mean(await this.#fullStrength(parameters, "validation", indexes), indexes);
  }

  async score(parameters: Parameters, seed: number, detailed: boolean): Promise<Scores> {
    const { test, validation } = this.#placed.sets;
    const all = [...validation.windows.keys()];
    const everyTest = [...test.windows.keys()];
    const scores: Scores = {
      validation: this.#mean(await this.#fullStrength(parameters, "validation", all), all),
      losses: [...(await this.#fullStrength(parameters, "test", everyTest))],
      ...{ shipped: null, scales: null, wrongCentroid: null, prefixes: null },
    };
    if (this.#method !== "static" && this.#method !== "gated-bank") return scores;
    const adapters = this.#plan.adapters!(parameters, this.#placed.centroids);
    const memberOf = assignAll(test.embeddings, adapters.centroids);
    const scales = await chooseScales(this.#meter, validation, adapters);
    scores.scales = [...scales];
    scores.shipped = [...(await adaptedLosses(this.#meter, test, adapters, scales, memberOf, everyTest))];
    if (this.#method === "static") return scores;
    const full = new Float32Array(adapters.centroids.count).fill(1);
    const others = otherCentroids(memberOf, adapters.centroids.count, seed);
    scores.wrongCentroid = [...(await adaptedLosses(this.#meter, test, adapters, full, others, everyTest))];
    if (detailed) scores.prefixes = await prefixLosses(this.#meter, test, this.#placed.table, adapters);
    return scores;
  }

  #fullStrength(parameters: Parameters, split: Split, indexes: readonly number[]): Promise<Float64Array> {
    const set = this.#placed.sets[split];
    if (!this.#plan.adapters) {
      const network = paperNetwork(this.#prepared.head, this.#plan.measured, parameters);
      return batchMeanLosses(this.#meter, set, indexes, network, this.#placed.centroids);
    }
    const adapters: Adapters = this.#plan.adapters(parameters, this.#placed.centroids);
    const full = new Float32Array(adapters.centroids.count).fill(1);
    return adaptedLosses(this.#meter, set, adapters, full, assignAll(set.embeddings, adapters.centroids), indexes);
  }

  #mean(sums: Float64Array, indexes: readonly number[]): number {
    const { windows } = this.#placed.sets.validation;
    const tokens = indexes.reduce((sum, i) => sum + scoredTokens(windows[i]), 0);
    return sums.reduce((sum, nats) => sum + nats, 0) / tokens;
  }
}

/** For each window a centroid that is not its own, all others as likely. */
function otherCentroids(memberOf: Int32Array, count: number, seed: number): Int32Array {
  const random = new Random(seed, streams.wrongCentroid);
  return memberOf.map((k) => (count < 2 ? k : (k + 1 + random.integer(count - 1)) % count));
}
