/**
 * The comparison, honest: documents are split before anything is looked at, the first 64 tokens of a window place it, the
 * tokens after them are scored, and every method is trained on the same windows. One split of documents, several training
 * seeds. Each finished trial is kept, so the same command goes on where it was, and gives the same result.
 */
import { basename, resolve } from "node:path";
import { rankCentroids } from "../../../shared/math/assignment.ts";
import { LossMeter } from "../bank/loss.ts";
import { baseLosses } from "../bank/measure.ts";
import { bankShape } from "../bank/parameters.ts";
import { meanDirection } from "../bank/trainer.ts";
import { countsByCluster, labelsOf, positionsIn, principalPlane } from "../clustering/describe.ts";
import type { CorpusSource } from "../corpus/read-corpus.ts";
import { documentKey, scoredTokens } from "../corpus/windows.ts";
import { assignAll } from "../embed.ts";
import { keptOrMade } from "../kept-results.ts";
import { type Placed, type Prepared, place, prepare } from "../prepare.ts";
import type { Progress } from "../progress.ts";
import { Analysis, curvesOf, type Outcomes, prefixGains, type SeedOutcomes } from "./analysis.ts";
import { type FormatRow, measureFormats } from "./formats.ts";
import { type MethodPlan, planMethods, type TrainedMethod, trainableOf, trainedOf } from "./methods.ts";
import { paperProtocol } from "./paper-protocol.ts";
import { prefixWindows, tokensAfterPrefixes } from "./prefix-lengths.ts";
import { type EvaluationResult, type PaperResult, resultFormat, resultSchema } from "./result.ts";
import { type Outcome, runTrial, type TrialContext } from "./trial.ts";

export interface EvaluateOptions {
  modelDirectory: string;
  corpora: readonly CorpusSource[];
  /** Text of domains that training does not see at all. */
  unseenCorpora: readonly CorpusSource[];
  /** Names of corpora that are part of the base's own training text. */
  known: readonly string[];
  cacheDirectory: string;
  seeds: readonly number[];
  windowSeed: number;
  clusters: number; // K
  rank: number; // R
  biases: number; // M
  hidden: number; // H
  dimensions: number; // P
  steps: number;
  learningRate: number;
  /** Peaks among which each method's but the bank's is chosen on validation, with the first seed. */
  baselineLearningRates: readonly number[];
  trainWindows: number;
  validationWindows: number;
  testWindows: number;
  /** Of the honest comparison; `coreMethods` at least. */
  methods: readonly TrainedMethod[];
  /** The honest comparison, the paper's own, or both. */
  protocol: "honest" | "paper" | "both";
  /** Lines and steps that the paper's protocol trains on: its network passes LoRA only after several hundred steps. */
  paperLines: number;
  paperSteps: number;
  threads: number;
}

/** Deterministic but for the seconds in it. Throws the signal's reason when aborted; what was finished stays. */
export async function evaluate(
  options: EvaluateOptions,
  progress: Progress,
  now: () => number,
  signal?: AbortSignal,
): Promise<EvaluationResult> {
  const startMs = now();
  const prepared = await prepare(options, progress, signal);
  try {
    const honest = options.protocol === "paper" ? nothing : await compare(prepared, options, progress, now, signal);
    const paper = options.protocol === "honest" ? null : await reproducePaper(prepared, options, progress);
    progress.end();
    const about = aboutText(prepared, options);
    return resultSchema.parse({ format: resultFormat, ...about, ...honest, paper, seconds: (now() - startMs) / 1000 });
  } finally {
    await prepared.close();
  }
}

type PlacedOutcomes = SeedOutcomes & { placed: Placed };

/** Runs the trials, each once. */
class Contest {
  readonly plans: Record<TrainedMethod, MethodPlan>;
  readonly #prepared: Prepared;
  readonly #options: EvaluateOptions;
  readonly #context: TrialContext;
  /** Of the methods that the first seed has chosen one for. */
  readonly #learningRates = new Map<TrainedMethod, number>();

  constructor(
    prepared: Prepared,
    options: EvaluateOptions,
    progress: Progress,
    now: () => number,
    signal: AbortSignal | undefined,
  ) {
    const shape = bankShape({ ...options, dimensions: prepared.space.dimensions });
    this.plans = planMethods(prepared.head, { ...options, shape });
    this.#prepared = prepared;
    this.#options = options;
    this.#context = { prepared, steps: options.steps, threads: options.threads, progress, now, signal };
  }

  /** Summed loss of each test window under the base. */
  base(): Promise<number[]> {
    const { key, head, sets } = this.#prepared;
    return keptOrMade(this.#options.cacheDirectory, "base", [key], async () => {
      const { measured, kind } = this.plans.static;
      const meter = await LossMeter.open(head, measured, this.#options.threads);
      const losses = await baseLosses(meter, sets.test, kind.initial(1), [...sets.test.windows.keys()]);
      await meter.release();
      return [...losses];
    });
  }

  /** The base in every weight format. */
  formats(): Promise<FormatRow[]> {
    const { key, model, sets } = this.#prepared;
    const { threads, progress, signal } = this.#context;
    const { cacheDirectory, windowSeed } = this.#options;
    return keptOrMade(cacheDirectory, "formats", [key], () =>
      measureFormats(model, sets.test.windows, { threads, seed: windowSeed }, progress, signal),
    );
  }

  async run(seed: number): Promise<PlacedOutcomes> {
    const placed = place(this.#prepared, this.#options.clusters, seed);
    const outcomes = {} as Outcomes;
    for (const method of this.#options.methods) outcomes[method] = await this.#best(method, placed, seed);
    return {
      ...{ seed, outcomes, placed },
      centroidOf: assignAll(placed.sets.test.embeddings, placed.centroids),
      clusterSizes: sizesOf(placed),
    };
  }

  /** With the first seed every learning rate is tried, and validation chooses; later seeds keep to it. */
  async #best(method: TrainedMethod, placed: Placed, seed: number): Promise<Outcome> {
    const plan = this.plans[method];
    const chosen = this.#learningRates.get(method);
    const { cacheDirectory, clusters, rank, biases, hidden, steps } = this.#options;
    let best: Outcome | null = null;
    for (const learningRate of chosen ? [chosen] : plan.learningRates) {
      const trial = { seed, learningRate, detailed: seed === this.#options.seeds[0] };
      const choices = [this.#prepared.key, { clusters, rank, biases, hidden, steps }, method, trial];
      const outcome = await keptOrMade(cacheDirectory, method, choices, () =>
        runTrial(method, plan, placed, trial, this.#context),
      );
      if (!best || outcome.validation < best.validation) best = outcome;
    }
    this.#learningRates.set(method, best!.learningRate);
    return best!;
  }
}

/** What a comparison gives; the rest of a result is about its text, or the paper's. */
type Comparison = Omit<EvaluationResult, keyof ReturnType<typeof aboutText> | "format" | "paper" | "seconds">;

const nothing: Comparison = {
  ...{ results: [], summary: {}, gains: [], overStatic: null, controls: null },
  ...{ centroids: [], documents: [], prefixLengths: [], curves: [], formats: [] },
};

function aboutText({ model, corpora, sets }: Prepared, options: EvaluateOptions) {
  const { windows } = sets.test;
  const documentsOf = (domain: number) =>
    new Set(windows.filter(({ corpus }) => corpus === domain).map(({ document }) => document)).size;
  return {
    model: {
      name: basename(resolve(options.modelDirectory)),
      weights: model.weightsHash,
      parameters: [...model.weights.values()].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0),
    },
    options: recordOf(options),
    domains: corpora.map(({ name, unseen, documents, tokens }, domain) => ({
      ...{ name, known: options.known.includes(name), unseen, documents, tokens },
      testDocuments: documentsOf(domain),
    })),
  };
}

/** Peak, of its LoRA as of its network. */
const paperLearningRate = 3e-3;

function reproducePaper(prepared: Prepared, options: EvaluateOptions, progress: Progress): Promise<PaperResult> {
  const { cacheDirectory, clusters, paperLines: lines, paperSteps: steps, threads } = options;
  const seed = options.seeds[0];
  const settings = { lines, steps, learningRate: paperLearningRate, seed };
  return keptOrMade(cacheDirectory, "paper", [prepared.key, clusters, settings], () =>
    paperProtocol(prepared, place(prepared, clusters, seed), { ...settings, threads }, progress),
  );
}

/** The honest comparison. */
async function compare(
  prepared: Prepared,
  options: EvaluateOptions,
  progress: Progress,
  now: () => number,
  signal: AbortSignal | undefined,
): Promise<Comparison> {
  const contest = new Contest(prepared, options, progress, now, signal);
  const base = await contest.base();
  const formats = await contest.formats();
  const seeds: PlacedOutcomes[] = [];
  for (const seed of options.seeds) seeds.push(await contest.run(seed));
  const { test } = prepared.sets;
  const windows = test.windows.map((window) => ({
    domain: window.corpus,
    document: documentKey(window),
    tokens: scoredTokens(window),
  }));
  const domains = prepared.corpora.map((corpus) => ({ ...corpus, known: options.known.includes(corpus.name) }));
  const analysis = new Analysis(windows, domains, base, seeds);
  const [first] = seeds;
  const prefixes = first.outcomes["gated-bank"].prefixes!;
  return {
    results: analysis.results(),
    summary: Object.fromEntries(
      analysis.methods().map((method) => {
        const outcomes = method === "base" ? [] : seeds.map((seed) => seed.outcomes[trainedOf(method)]!);
        return [
          method,
          {
            ...analysis.perplexities(method),
            trainable: trainableOf(method, contest.plans),
            gain: method === "base" ? null : analysis.gain(method, "base"),
            learningRate: outcomes[0]?.learningRate ?? null,
            seconds: outcomes.reduce((sum, { seconds }) => sum + seconds, 0),
          },
        ];
      }),
    ),
    gains: analysis.gains(),
    overStatic: analysis.gain("gated-bank", "static")!,
    controls: analysis.controls(),
    ...mapOf(prepared, analysis, first),
    prefixLengths: prefixGains(
      prefixes,
      prefixWindows(test).map((i) => ({
        document: windows[i].document,
        tokens: tokensAfterPrefixes(test, i),
      })),
    ),
    curves: curvesOf(first),
    formats,
  };
}

/** Centroids and test documents as they lie on the map, with what each centroid's adapter gains. */
function mapOf(
  prepared: Prepared,
  analysis: Analysis,
  first: PlacedOutcomes,
): Pick<EvaluationResult, "centroids" | "documents"> {
  const { tokenizer, head, corpora } = prepared;
  const { placed, clusterSizes } = first;
  const { count: K, dimensions: P, vectors } = placed.centroids;
  const plane = principalPlane(vectors, P);
  const counts = countsByCluster(placed.sets.train.windows, placed.memberOf, K, head.vocabularySize);
  const labels = labelsOf(counts, (id) => new TextDecoder().decode(tokenizer.pieceOf(id)));
  const positions = positionsIn(plane, vectors);
  const { windows, embeddings } = placed.sets.test;
  const documents = [...Map.groupBy(windows.keys(), (i) => documentKey(windows[i])).values()].map((indexes) => {
    const mean = meanDirection(indexes.map((i) => embeddings.subarray(i * P, (i + 1) * P)));
    const { index } = rankCentroids(mean, placed.centroids)[0];
    return {
      domain: corpora[windows[indexes[0]].corpus].name,
      centroid: idOf(index),
      position: positionsIn(plane, mean)[0],
    };
  });
  const { scales } = first.outcomes["gated-bank"];
  const centroids = labels.map((label, k) => ({
    ...{ id: idOf(k), label, size: clusterSizes[k], position: positions[k], scale: scales![k] },
    ...analysis.ofCentroid(first, k),
  }));
  return { centroids, documents };
}

const idOf = (centroid: number) => `c${centroid}`;

function sizesOf({ memberOf, centroids }: Placed): number[] {
  const sizes = new Array<number>(centroids.count).fill(0);
  for (const k of memberOf) sizes[k]++;
  return sizes;
}

/** What decides the result besides model and text, and `threads`, which decides the time. */
function recordOf(options: EvaluateOptions): EvaluationResult["options"] {
  const { clusters, rank, biases, hidden, dimensions, steps, learningRate, windowSeed, threads } = options;
  const { trainWindows, validationWindows, testWindows } = options;
  return {
    ...{ clusters, rank, biases, hidden, dimensions, steps, learningRate, windowSeed, threads },
    ...{ trainWindows, validationWindows, testWindows },
    seeds: [...options.seeds],
    baselineLearningRates: [...options.baselineLearningRates],
  };
}
