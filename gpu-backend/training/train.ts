/**
 * The whole way from corpora to artifacts. Resumable: hidden states and the optimiser's state are kept in
 * `<out>/cache`, and the same options go on from there to the same bytes.
 */
import { readFile, rm } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { setLimits } from "../../shared/artifacts/limits.ts";
import { type Manifest, manifestFile, manifestSchema, parseManifest } from "../../shared/artifacts/manifest.ts";
import { gatedKind } from "./bank/bank-kinds.ts";
import { loadCheckpoint, saveCheckpoint } from "./bank/checkpoint.ts";
import { documentGain, fewestMeasuredDocuments, type Gain } from "./bank/gain.ts";
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
import { runToEnd } from "./bank/run.ts";
import { readServedBank, type ServedBank, servedScales } from "./bank/served-bank.ts";
import type { BankSettings, TextSettings } from "./bank/settings.ts";
import { Trainer } from "./bank/trainer.ts";
import { type HeadFormat, headIn } from "./bank/training-graph.ts";
import { type Calibrated, calibrate, calibrationCost } from "./calibration/calibrate.ts";
import type { Family } from "./calibration/families.ts";
import { countsByCluster, labelsOf, positionsIn, principalPlane } from "./clustering/describe.ts";
import { profileOf } from "./clustering/profile.ts";
import type { CorpusSource } from "./corpus/read-corpus.ts";
import { documentKey, prefixTokens } from "./corpus/windows.ts";
import { keyOf, type Placed, type Prepared, place, prepare } from "./prepare.ts";
import type { Progress } from "./progress.ts";
import { publish, type TrainedBank, writeManifest } from "./publish.ts";
import { Random } from "./random.ts";
import { streams } from "./streams.ts";

export interface TrainOptions extends Omit<BankSettings, "clusters">, TextSettings {
  modelDirectory: string;
  outDirectory: string;
  corpora: readonly CorpusSource[];
  /** K; null: `mostCentroids`, and fewer where there is too little text to measure so many. */
  clusters: number | null;
  /** Of the base's logits in training steps. */
  headFormat: HeadFormat;
  threads: number;
  /** Keep `<out>/cache` when done. */
  keepCache: boolean;
  /** Of each training that calibrates evidence; null: the default of `shared/math/evidence.ts` is served. */
  calibration: CalibrationOptions | null;
}

export interface CalibrationOptions {
  families: readonly Family[];
  steps: number;
  textsPerCorpus: number;
}

/** A bank, its measurements, and the table of what evidence gains where it was calibrated. */
export interface Trained {
  manifest: Manifest;
  calibrated: Calibrated | null;
}

const stepsBetweenCheckpoints = 50;
export const mostCentroids = 16;
/** What public requests call an embedded GPT-2, whatever its size. */
const servedAs = "gpt2";

/** Trains and publishes. Aborting stops after the current step with a checkpoint, and throws the signal's reason. */
export async function train(options: TrainOptions, progress: Progress, signal?: AbortSignal): Promise<Trained> {
  requirePublishable(options);
  return withPrepared(options, progress, signal, async (prepared) => {
    const bank = await trainBank(prepared, options, progress, signal);
    const measured = await measure(bank, options, progress);
    const calibrated = options.calibration
      ? await calibrateEvidence(prepared, measured.served, options, options.calibration, progress, signal)
      : null;
    const manifest = await publishBank(prepared, bank, measured, calibrated, options);
    return { manifest, calibrated };
  });
}

/**
 * Calibrates the evidence of artifacts that are there already: of their files only manifest.json changes, and in it only
 * `evidence`. Throws an Error where they were made for other weights, or are of another kind than training makes.
 */
export async function recalibrate(
  artifacts: string,
  options: TrainOptions & { calibration: CalibrationOptions },
  progress: Progress,
  signal?: AbortSignal,
): Promise<Trained> {
  const path = join(artifacts, manifestFile);
  const before = parseManifest(await readFile(path, "utf8"));
  return withPrepared(options, progress, signal, async (prepared) => {
    if (before.model.weights !== prepared.model.weightsHash) {
      throw new Error(`${path} is for weights ${before.model.weights}, the model has ${prepared.model.weightsHash}`);
    }
    const served = await readServedBank(artifacts, before);
    const calibrated = await calibrateEvidence(prepared, served, options, options.calibration, progress, signal);
    const manifest = manifestSchema.parse({ ...before, evidence: calibrated.calibration });
    await writeManifest(artifacts, manifest);
    return { manifest, calibrated };
  });
}

/** Prepares the text, lets `use` have it, and takes the cache away if it is not to be kept. */
async function withPrepared<T>(
  options: TrainOptions,
  progress: Progress,
  signal: AbortSignal | undefined,
  use: (prepared: Prepared) => Promise<T>,
): Promise<T> {
  const cacheDirectory = cacheOf(options);
  if (options.calibration) progress.note(calibrationCost(options.calibration));
  const prepared = await prepare(
    {
      ...options,
      cacheDirectory,
      windowSeed: options.seed,
    },
    progress,
    signal,
  );
  const result = await use(prepared).finally(() => prepared.close());
  if (!options.keepCache) await rm(cacheDirectory, { recursive: true });
  progress.end();
  return result;
}

function cacheOf({ outDirectory }: TrainOptions): string {
  return join(outDirectory, "cache");
}

/** Windows of each calibrating training, and those that its scales are chosen on: a share of what the bank itself gets. */
const calibrationWindows = 4000;
const calibrationValidationWindows = 160;

function calibrateEvidence(
  prepared: Prepared,
  served: ServedBank,
  options: TrainOptions,
  { families, steps, textsPerCorpus }: CalibrationOptions,
  progress: Progress,
  signal?: AbortSignal,
): Promise<Calibrated> {
  const { seed, rank, biases, hidden, dimensions, learningRate, headFormat, threads } = options;
  const fold = {
    ...{
      seed,
      clusters: clustersFor(prepared, options),
      rank,
      biases,
      hidden,
      dimensions,
      learningRate,
      headFormat,
      steps,
      textsPerCorpus,
    },
    trainWindows: calibrationWindows,
    validationWindows: calibrationValidationWindows,
  };
  return calibrate(
    prepared,
    served,
    { ...fold, families, threads, cacheDirectory: cacheOf(options) },
    progress,
    signal,
  );
}

/** Throws an Error before anything is trained that a manifest could not say. */
function requirePublishable({ clusters, rank, biases, hidden, dimensions, corpora }: TrainOptions): void {
  const sizes = {
    centroids: clusters ?? mostCentroids,
    gates: rank + biases,
    hiddenUnits: hidden,
    ...{ dimensions, corpora: corpora.length },
  };
  for (const [name, size] of Object.entries(sizes) as [keyof typeof sizes, number][]) {
    if (size > setLimits[name]) throw new Error(`${name}: ${size}, a set of artifacts has at most ${setLimits[name]}`);
  }
}

/** As many as text is held out for: two documents for each centroid, so that its gain can be measured. */
function clustersFor({ sets }: Prepared, { clusters }: TrainOptions): number {
  if (clusters !== null) return clusters;
  const documents = new Set(sets.test.windows.map(documentKey)).size;
  return Math.max(1, Math.min(mostCentroids, Math.floor(documents / fewestMeasuredDocuments)));
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
  if (resumed) progress.note(`going on from step ${resumed.step}`);
  const trainer = await Trainer.open(
    gatedKind(headIn(headFormat, head), shape),
    sets.train,
    { centroids: centroids.vectors, memberOf: placed.memberOf },
    { seed, steps, learningRate, input: "jittered", threads },
    resumed,
  );
  const { parameters } = await runToEnd(trainer, "training", progress, async (state) => {
    if (signal?.aborted || state.step % stepsBetweenCheckpoints === 0) await saveCheckpoint(checkpoint, state);
    signal?.throwIfAborted();
  });
  return { shape, head, parameters, centroids, space, placed };
}

/** What held-out text says of a bank. */
interface MeasuredBank {
  served: ServedBank;
  /** Of each centroid, as it is published. */
  measured: { scale: number; gain: Gain | null }[];
  /** Of the test windows. */
  losses: AssignedLoss[];
}

async function measure(
  { head, shape, parameters, centroids, placed: { sets, table } }: Bank,
  options: TrainOptions,
  progress: Progress,
): Promise<MeasuredBank> {
  const meter = await LossMeter.open(head, shape, options.threads);
  progress.stage("measuring", 2);
  const adapters = hyperNetworkAdapters(head, shape, parameters, centroids);
  const chosen = await chooseScales(meter, sets.validation, adapters);
  // What was not measured is not served.
  const documents = documentsByCentroid(sets.test, centroids);
  const scales = chosen.map((scale, k) => (documents[k] < fewestMeasuredDocuments ? 0 : scale));
  progress.advance(1, "scales");
  const losses = await measureWindows(meter, sets.test, adapters, scales);
  await meter.release();
  progress.advance(2, "gains");
  const random = new Random(options.seed, streams.bootstrap);
  const measured = Array.from(scales, (scale, k) => {
    const own = losses.filter(({ centroid }) => centroid === k);
    return { scale, gain: documentGain(own, random) };
  });
  return { served: { shape, table, adapters, scales: servedScales(measured) }, measured, losses };
}

function publishBank(
  prepared: Prepared,
  bank: Bank,
  { measured, losses }: MeasuredBank,
  calibrated: Calibrated | null,
  options: TrainOptions,
): Promise<Manifest> {
  const { model, tokenizer } = prepared;
  const { sets, memberOf, table } = bank.placed;
  const counts = countsByCluster(sets.train.windows, memberOf, bank.centroids.count, bank.head.vocabularySize);
  const labels = labelsOf(counts, (id) => new TextDecoder().decode(tokenizer.pieceOf(id)));
  const plane = principalPlane(bank.centroids.vectors, bank.centroids.dimensions);
  const positions = positionsIn(plane, bank.centroids.vectors);
  const { vocabularySize, hiddenSize, layers, heads, contextTokens, endOfTextId } = model.config;
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
      evidence: calibrated?.calibration,
      model: {
        name: basename(resolve(options.modelDirectory)),
        servedAs,
        weights: model.weightsHash,
        ...{ vocabularySize, hiddenSize, layers, heads, contextTokens, endOfTextId },
        chatTemplate: prepared.chatTemplate,
      },
      training: {
        seed: options.seed,
        steps: options.steps,
        split: "document-hash",
        corpora: prepared.corpora,
        basePerplexity: perplexityOf(losses, "base"),
        adaptedPerplexity: perplexityOf(losses, "adapted"),
        assignments: profileOf(sets, table, bank.centroids),
      },
    },
  );
}
