/**
 * Measures the method on held-out documents: the base, a static adapter of equal trainable size, the gated bank, and
 * the bank with another centroid's gates (a control: what of the gain is the centroid's?), all at full strength; and
 * both adapters as they would be shipped, at scales that make no corpus worse. The first 64 tokens of a window assign
 * it, the tokens after them are scored. One split of documents, several training seeds.
 */
import { writeAtomically } from "./atomic-file.ts";
import { documentGain, type Gain } from "./bank/gain.ts";
import { LossMeter } from "./bank/loss.ts";
import {
  type Adapters,
  type AssignedLoss,
  chooseScales,
  hyperNetworkAdapters,
  measureWindows,
  perplexityOf,
  staticAdapter,
} from "./bank/measure.ts";
import { type BankShape, bankShape, trainableCount } from "./bank/parameters.ts";
import { runToEnd } from "./bank/run.ts";
import { Trainer, type TrainerOptions, type TrainingClusters } from "./bank/trainer.ts";
import { kMeans } from "./clustering/k-means.ts";
import type { CorpusSource } from "./corpus/read-corpus.ts";
import { type Prepared, prepare } from "./prepare.ts";
import type { Progress } from "./progress.ts";
import { Random } from "./random.ts";
import { streams } from "./streams.ts";
import type { TrainOptions } from "./train.ts";

export interface EvaluateOptions extends Omit<TrainOptions, "outDirectory" | "seed" | "keepCache" | "heldOutWindows"> {
  /** Text of domains that training does not see at all. */
  unseenCorpora: readonly CorpusSource[];
  cacheDirectory: string;
  seeds: readonly number[];
  validationWindows: number;
  testWindows: number;
  /** Peaks among which the static adapter's is chosen on validation, with the first seed. */
  staticLearningRates: readonly number[];
  /** Report as JSON, or null for none. */
  reportFile: string | null;
}

export const methods = ["base", "static", "gated-bank", "wrong-centroid", "static-shipped", "bank-shipped"] as const;
export type Method = (typeof methods)[number];

export interface Report {
  /** Scored tokens of the test split. */
  tokens: number;
  trainable: Record<Method, number>;
  /** Perplexity over the corpora that training saw (other documents of them), per seed. */
  perplexity: Record<Method, number[]>;
  staticLearningRate: number;
  /** Over the same, seeds averaged. */
  gains: { bankOverBase: Gain; bankOverStatic: Gain; bankOverWrongCentroid: Gain; shippedOverBase: Gain };
  corpora: {
    name: string;
    seenInTraining: boolean;
    documents: number;
    /** Seeds averaged (mean loss). */
    perplexity: Record<Method, number>;
    bankOverStatic: Gain;
    shippedOverBase: Gain;
  }[];
}

/** Deterministic. Throws the signal's reason when aborted; hidden states stay cached. */
export async function evaluate(options: EvaluateOptions, progress: Progress, signal?: AbortSignal): Promise<Report> {
  const prepared = await prepare({ ...options, splitSeed: 1 }, progress, signal);
  try {
    const shape = bankShape({ ...options, dimensions: prepared.space.dimensions });
    const contest = new Contest(prepared, shape, options, progress, signal);
    const runs: Record<Method, AssignedLoss[]>[] = [];
    for (const seed of options.seeds) runs.push(await contest.run(seed));
    const report = reportOf(prepared, contest, runs);
    if (options.reportFile) await writeAtomically(options.reportFile, `${JSON.stringify(report, null, 2)}\n`);
    progress.end();
    return report;
  } finally {
    await prepared.close();
  }
}

class Contest {
  readonly trainable: Record<Method, number>;
  staticLearningRate: number | null = null;
  readonly #prepared: Prepared;
  readonly #shape: BankShape;
  readonly #staticShape: BankShape;
  readonly #options: EvaluateOptions;
  readonly #progress: Progress;
  readonly #signal?: AbortSignal;

  constructor(
    prepared: Prepared,
    shape: BankShape,
    options: EvaluateOptions,
    progress: Progress,
    signal: AbortSignal | undefined,
  ) {
    const { hiddenSize: D, vocabularySize: V } = prepared.head;
    this.#prepared = prepared;
    this.#shape = shape;
    const size = trainableCount(shape, D, V, true);
    this.#staticShape = bankShape({ ...shape, rank: Math.floor((size - V) / (D + V)), biases: 1 });
    const staticSize = trainableCount(this.#staticShape, D, V, false);
    this.trainable = {
      base: 0,
      static: staticSize,
      "gated-bank": size,
      "wrong-centroid": size,
      "static-shipped": staticSize,
      "bank-shipped": size,
    };
    this.#options = options;
    this.#progress = progress;
    this.#signal = signal;
  }

  /** Test losses of every method, trained with `seed`. */
  async run(seed: number): Promise<Record<Method, AssignedLoss[]>> {
    const { sets, space, head } = this.#prepared;
    const K = this.#options.clusters;
    const clusters = kMeans(sets.train.embeddings, space.dimensions, { clusters: K, seed });
    const centroids = { count: K, dimensions: space.dimensions, vectors: clusters.centroids };

    const state = await this.#train(this.#shape, clusters, seed, this.#options.learningRate, true);
    const bank = hyperNetworkAdapters(head, this.#shape, state.parameters, centroids);
    const meter = await LossMeter.open(head, this.#shape, this.#options.threads);
    const full = new Float32Array(K).fill(1);
    const shift = 1 + new Random(seed, streams.wrongCentroid).integer(K - 1);
    const wrong: Adapters = { ...bank, gatesAt: (k, scale) => bank.gatesAt((k + shift) % K, scale) };
    const bankLosses = await measureWindows(meter, sets.test, bank, full);
    const wrongLosses = await measureWindows(meter, sets.test, wrong, full);
    const scales = await chooseScales(meter, sets.validation, bank);
    const shippedLosses = await measureWindows(meter, sets.test, bank, scales);
    await meter.release();

    const fixed = await this.#runStatic(clusters, seed);
    return {
      base: bankLosses.map((loss) => ({ ...loss, adapted: loss.base })),
      static: fixed.full,
      "gated-bank": bankLosses,
      "wrong-centroid": wrongLosses,
      "static-shipped": fixed.shipped,
      "bank-shipped": shippedLosses,
    };
  }

  /** The static adapter; its learning rate is chosen on validation with the first seed, at full strength. */
  async #runStatic(clusters: TrainingClusters, seed: number) {
    const { sets, head } = this.#prepared;
    const meter = await LossMeter.open(head, this.#staticShape, this.#options.threads);
    const rates = this.staticLearningRate ? [this.staticLearningRate] : this.#options.staticLearningRates;
    const full = Float32Array.of(1);
    let best: { rate: number; validation: number; adapter: Adapters } | null = null;
    for (const rate of rates) {
      const { parameters } = await this.#train(this.#staticShape, clusters, seed, rate, false);
      const adapter = staticAdapter(this.#staticShape, parameters);
      const validation = perplexityOf(await measureWindows(meter, sets.validation, adapter, full), "adapted");
      if (!best || validation < best.validation) best = { rate, validation, adapter };
    }
    const { rate, adapter } = best!;
    this.staticLearningRate = rate;
    const scales = await chooseScales(meter, sets.validation, adapter);
    const losses = {
      full: await measureWindows(meter, sets.test, adapter, full),
      shipped: await measureWindows(meter, sets.test, adapter, scales),
    };
    await meter.release();
    return losses;
  }

  async #train(shape: BankShape, clusters: TrainingClusters, seed: number, learningRate: number, gated: boolean) {
    const { steps, threads } = this.#options;
    const options: TrainerOptions = { seed, steps, learningRate, gated, threads };
    const { head, sets } = this.#prepared;
    const trainer = await Trainer.open(head, shape, sets.train, clusters, options, null);
    const name = gated ? `bank, seed ${seed}` : `static ${learningRate}, seed ${seed}`;
    return runToEnd(trainer, name, this.#progress, () => this.#signal?.throwIfAborted());
  }
}

function reportOf(prepared: Prepared, contest: Contest, runs: readonly Record<Method, AssignedLoss[]>[]): Report {
  const { corpora } = prepared;
  const isSeen = ({ corpus }: AssignedLoss) => !corpora[corpus].unseen;
  const random = new Random(1, streams.bootstrap);
  const averaged = byMethod((method) => averageLosses(runs.map((run) => run[method])));
  const gain = (of: Method, over: Method, keep: (loss: AssignedLoss) => boolean): Gain => {
    const paired = averaged[of].map((loss, i) => ({ ...loss, base: averaged[over][i].adapted }));
    return documentGain(paired.filter(keep), random)!;
  };
  return {
    tokens: averaged.base.reduce((sum, { tokens }) => sum + tokens, 0),
    trainable: contest.trainable,
    perplexity: byMethod((method) => runs.map((run) => perplexityOf(run[method].filter(isSeen), "adapted"))),
    staticLearningRate: contest.staticLearningRate!,
    gains: {
      bankOverBase: gain("gated-bank", "base", isSeen),
      bankOverStatic: gain("gated-bank", "static", isSeen),
      bankOverWrongCentroid: gain("gated-bank", "wrong-centroid", isSeen),
      shippedOverBase: gain("bank-shipped", "base", isSeen),
    },
    corpora: corpora.flatMap(({ name, unseen }, index) => {
      const inCorpus = ({ corpus }: AssignedLoss) => corpus === index;
      const windows = averaged.base.filter(inCorpus);
      if (windows.length === 0) return [];
      return {
        name,
        seenInTraining: !unseen,
        documents: new Set(windows.map(({ document }) => document)).size,
        perplexity: byMethod((method) => perplexityOf(averaged[method].filter(inCorpus), "adapted")),
        bankOverStatic: gain("gated-bank", "static", inCorpus),
        shippedOverBase: gain("bank-shipped", "base", inCorpus),
      };
    }),
  };
}

function byMethod<T>(value: (method: Method) => T): Record<Method, T> {
  return Object.fromEntries(methods.map((method) => [method, value(method)])) as Record<Method, T>;
}

/** Window by window, the mean over seeds. */
function averageLosses(runs: readonly AssignedLoss[][]): AssignedLoss[] {
  return runs[0].map((loss, i) => ({
    ...loss,
    adapted: runs.reduce((sum, run) => sum + run[i].adapted, 0) / runs.length,
  }));
}
