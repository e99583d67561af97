/**
 * Trains artifacts from corpora. The cache in `<out>/cache` has hidden states and the optimiser's state: the same options resume
 * from it and make the same bytes.
 */
import { rm } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { setLimits } from "../../shared/artifacts/limits.ts";
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import type { Gain } from "../adapters/own/held-out-gain.ts";
import { loadCheckpoint, saveCheckpoint } from "./bank/checkpoint.ts";
import { documentGain, minMeasuredDocuments } from "./bank/gain.ts";
import { LossMeter } from "./bank/loss.ts";
import {
  type AssignedLoss,
  chooseScales,
  documentsByCentroid,
  hyperNetworkAdapters,
  measureWindows,
  perplexityOf,
} from "./bank/measure.ts";
import { bankShape } from "./bank/parameters.ts";
import type { BankSettings, TextSettings } from "./bank/settings.ts";
import { Trainer } from "./bank/trainer.ts";
import { type HeadFormat, headIn } from "./bank/training-graph.ts";
import { countsByCluster, labelsOf, mapPositions } from "./clustering/describe.ts";
import type { CorpusSource } from "./corpus/read-corpus.ts";
import { documentKey, prefixTokens } from "./corpus/windows.ts";
import { keyOf, type Placed, type Prepared, place, prepare } from "./prepare.ts";
import type { Progress } from "./progress.ts";
import { publish, type TrainedBank } from "./publish.ts";
import { Random, streams } from "./random.ts";

export interface TrainOptions extends Omit<BankSettings, "clusters">, TextSettings {
  modelDirectory: string;
  outDirectory: string;
  corpora: readonly CorpusSource[];
  /** K; null: `maxCentroids`, and fewer where there is too little text to measure so many. */
  clusters: number | null;
  /** Of the base's logits in training steps. */
  headFormat: HeadFormat;
  threads: number;
  /** Keep `<out>/cache` when done. */
  keepCache: boolean;
  /** Rule by which prompts weigh experts, for the manifest; undefined: the default of `shared/math/evidence.ts`. */
  evidence?: Manifest["evidence"];
}

const stepsBetweenCheckpoints = 50;
export const maxCentroids = 16;
/** What public requests call an embedded GPT-2, whatever its size. */
const servedAs = "gpt2";

/** Trains and publishes. Aborting stops after the current step with a checkpoint, and throws the signal's reason. */
export async function train(options: TrainOptions, progress: Progress, signal?: AbortSignal): Promise<Manifest> {
  requirePublishable(options);
  const cacheDirectory = cacheOf(options);
  const prepared = await prepare({ ...options, cacheDirectory, windowSeed: options.seed }, progress, signal);
  let manifest: Manifest;
  try {
    const bank = await trainBank(prepared, options, progress, signal);
    manifest = await publishBank(prepared, bank, await measure(bank, options, progress), options);
  } finally {
    await prepared.close();
  }
  if (!options.keepCache) await rm(cacheDirectory, { recursive: true });
  progress.end();
  return manifest;
}

function cacheOf({ outDirectory }: TrainOptions): string {
  return join(outDirectory, "cache");
}

/** Throws an Error for sizes beyond the limits of a manifest, before anything is trained. */
function requirePublishable({ clusters, rank, biases, hidden, dimensions, corpora }: TrainOptions): void {
  const sizes = {
    centroids: clusters ?? maxCentroids,
    gates: rank + biases,
    hiddenUnits: hidden,
    ...{ dimensions, corpora: corpora.length },
  };
  for (const [name, size] of Object.entries(sizes) as [keyof typeof sizes, number][]) {
    if (size > setLimits[name]) throw new Error(`${name}: ${size}, a set of artifacts has at most ${setLimits[name]}`);
  }
}

/** Enough test documents for each centroid, so that its gain can be measured. */
function clustersFor({ sets }: Prepared, { clusters }: TrainOptions): number {
  if (clusters !== null) return clusters;
  const documents = new Set(sets.test.windows.map(documentKey)).size;
  return Math.max(1, Math.min(maxCentroids, Math.floor(documents / minMeasuredDocuments)));
}

interface Bank extends Omit<TrainedBank, "scales"> {
  placed: Placed;
}

async function trainBank(
  prepared: Prepared,
  options: TrainOptions,
  progress: Progress,
  signal?: AbortSignal,
): Promise<Bank> {
  const { head, space } = prepared;
  const placed = place(prepared, clustersFor(prepared, options), options.seed);
  const { sets, centroids } = placed;
  const K = centroids.count;
  const shape = bankShape({ ...options, dimensions: centroids.dimensions });
  const { seed, steps, learningRate, headFormat, threads } = options;
  const checkpoint = join(
    cacheOf(options),
    `checkpoint-${keyOf(prepared.key, shape, seed, steps, learningRate, headFormat, K)}.safetensors`,
  );
  const resumed = await loadCheckpoint(checkpoint);
  if (resumed) progress.note(`continuing from step ${resumed.step}`);
  const trainer = await Trainer.open(
    headIn(headFormat, head),
    shape,
    sets.train,
    { centroids: centroids.vectors, memberOf: placed.memberOf },
    { seed, steps, learningRate, threads },
    resumed,
  );
  const { state } = trainer;
  try {
    progress.stage("training", steps);
    while (state.step < steps) {
      const loss = await trainer.step();
      progress.advance(state.step, `loss ${loss.toFixed(3)}`);
      if (signal?.aborted || state.step % stepsBetweenCheckpoints === 0) await saveCheckpoint(checkpoint, state);
      signal?.throwIfAborted();
    }
  } finally {
    await trainer.release();
  }
  const { parameters } = state;
  return { shape, head, parameters, centroids, space, placed };
}

interface MeasuredBank {
  /** By centroid, as it is published. */
  measured: { scale: number; gain: Gain | null }[];
  /** By test window. */
  losses: AssignedLoss[];
}

async function measure(
  { head, shape, parameters, centroids, placed: { sets } }: Bank,
  options: TrainOptions,
  progress: Progress,
): Promise<MeasuredBank> {
  const meter = await LossMeter.open(head, shape, options.threads);
  progress.stage("measuring", 2);
  const adapters = hyperNetworkAdapters(head, shape, parameters, centroids);
  const chosen = await chooseScales(meter, sets.validation, adapters);
  // A centroid without enough test documents to measure it serves the base.
  const documents = documentsByCentroid(sets.test, centroids);
  const scales = chosen.map((scale, k) => (documents[k] < minMeasuredDocuments ? 0 : scale));
  progress.advance(1, "scales");
  const losses = await measureWindows(meter, sets.test, adapters, scales);
  await meter.release();
  progress.advance(2, "gains");
  const random = new Random(options.seed, streams.bootstrap);
  const measured = Array.from(scales, (scale, k) => {
    const own = losses.filter(({ centroid }) => centroid === k);
    return { scale, gain: documentGain(own, random) };
  });
  return { measured, losses };
}

function publishBank(
  prepared: Prepared,
  bank: Bank,
  { measured, losses }: MeasuredBank,
  options: TrainOptions,
): Promise<Manifest> {
  const { model, tokenizer } = prepared;
  const { sets, memberOf, table } = bank.placed;
  const counts = countsByCluster(sets.train.windows, memberOf, bank.centroids.count, bank.head.vocabularySize);
  const labels = labelsOf(counts, (id) => new TextDecoder().decode(tokenizer.pieceOf(id)));
  const positions = mapPositions(bank.centroids.vectors, bank.centroids.dimensions);
  const { vocabularySize, hiddenSize, contextTokens, stopIds } = model.config;
  return publish(
    options.outDirectory,
    { ...bank, scales: Float32Array.from(measured, ({ scale }) => scale) },
    table,
    prepared.tokenizerFile,
    labels.map((label, k) => ({
      label,
      size: memberOf.filter((member) => member === k).length,
      position: positions[k],
      ...measured[k],
    })),
    {
      prefixTokens,
      evidence: options.evidence,
      model: {
        name: basename(resolve(options.modelDirectory)),
        servedAs,
        weights: model.weightsHash,
        ...{ vocabularySize, hiddenSize, contextTokens, stopIds: [...stopIds] },
        chatTemplate: prepared.chatTemplate,
      },
      training: {
        seed: options.seed,
        steps: options.steps,
        corpora: prepared.corpora,
        basePerplexity: perplexityOf(losses, "base"),
        adaptedPerplexity: perplexityOf(losses, "adapted"),
      },
    },
  );
}
