/**
 * Trains artifacts from corpora. The cache in `<out>/cache` has hidden states and the optimiser's state: the same options resume
 * from it and make the same bytes.
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { setLimits } from "../../shared/artifacts/limits.ts";
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import type { Gain } from "../adapters/own/held-out-gain.ts";
import { fitNetwork, fitStatic } from "./bank/fit.ts";
import { documentGain, minMeasuredDocuments } from "./bank/gain.ts";
import { LossMeter } from "./bank/loss.ts";
import { type AssignedLoss, chooseScales, documentsByCentroid, measureWindows, perplexityOf } from "./bank/measure.ts";
import { servedParameters } from "./bank/parameters.ts";
import type { BankSettings, TextSettings } from "./bank/settings.ts";
import { readBase } from "./base.ts";
import { countsByCluster, labelsOf, mapPositions } from "./clustering/describe.ts";
import type { CorpusSource } from "./corpus/read-corpus.ts";
import { documentKey, prefixTokens } from "./corpus/windows.ts";
import { type Placed, type Prepared, place, prepare } from "./prepare.ts";
import type { Progress } from "./progress.ts";
import { publish, type TrainedBank } from "./publish.ts";
import { Random, streams } from "./random.ts";

export interface TrainOptions extends Omit<BankSettings, "clusters">, TextSettings {
  modelDirectory: string;
  outDirectory: string;
  corpora: readonly CorpusSource[];
  /** K; null: `maxCentroids`, and fewer where there is too little text to measure so many. */
  clusters: number | null;
  threads: number;
  /** Keep `<out>/cache` when done. */
  keepCache: boolean;
  /** Rule by which prompts weigh experts, for the manifest; undefined: the default of `shared/math/evidence.ts`. */
  evidence?: Manifest["evidence"];
}

export const maxCentroids = 24;

/** Trains and publishes. Aborting stops after the current step with a checkpoint, and throws the signal's reason. */
export async function train(options: TrainOptions, progress: Progress, signal?: AbortSignal): Promise<Manifest> {
  requirePublishable(options);
  const base = await readBase(options.modelDirectory);
  const cacheDirectory = cacheOf(options);
  const prepared = await prepare(base, { ...options, cacheDirectory, windowSeed: options.seed }, progress, signal);
  let manifest: Manifest;
  try {
    const bank = await trainBank(prepared, options, progress, signal);
    manifest = await publishBank(prepared, bank, await measure(prepared, bank, options, progress), options);
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
function requirePublishable(options: TrainOptions): void {
  const { clusters, staticRank, rank, biases, hidden, dimensions, corpora } = options;
  const sizes = {
    centroids: clusters ?? maxCentroids,
    gates: staticRank + 1 + rank + biases,
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
  const { head, space, sets, key } = prepared;
  const cacheDirectory = cacheOf(options);
  const text = { head, set: sets.train };
  const fitOptions = { ...options, cacheDirectory, key };
  const fixed = await fitStatic(text, sets.validation, fitOptions, progress, signal);
  const placed = place(prepared, clustersFor(prepared, options), options.seed);
  const generated = await fitNetwork(text, placed, fixed, fitOptions, progress, signal);
  return { ...servedParameters(fixed, generated), centroids: placed.centroids, space, placed };
}

interface MeasuredBank {
  /** By centroid, as it is published. */
  measured: { scale: number; gain: Gain | null }[];
  /** Of the static adapter. */
  staticGain: Gain | null;
  /** By test window. */
  losses: AssignedLoss[];
}

async function measure(
  { head }: Prepared,
  bank: Bank,
  options: TrainOptions,
  progress: Progress,
): Promise<MeasuredBank> {
  const { sets } = bank.placed;
  const meter = await LossMeter.open(head, bank.bank.a0, options.threads);
  progress.stage("measuring", 2);
  const chosen = await chooseScales(meter, sets.validation, bank);
  // A centroid without enough test documents to measure it serves the static adapter.
  const documents = documentsByCentroid(sets.test, bank.centroids);
  const scales = chosen.map((scale, k) => (documents[k] < minMeasuredDocuments ? 0 : scale));
  progress.advance(1, "scales");
  const losses = await measureWindows(meter, sets.test, bank, scales);
  await meter.release();
  progress.advance(2, "gains");
  const random = new Random(options.seed, streams.bootstrap);
  const measured = Array.from(scales, (scale, k) => {
    const own = losses.filter(({ centroid }) => centroid === k);
    return { scale, gain: documentGain(own, random) };
  });
  const staticGain = documentGain(
    losses.map((loss) => ({ ...loss, adapted: loss.fixed })),
    random,
  );
  return { measured, staticGain, losses };
}

function publishBank(
  prepared: Prepared,
  bank: Bank,
  { measured, staticGain, losses }: MeasuredBank,
  options: TrainOptions,
): Promise<Manifest> {
  const { base } = prepared;
  const { sets, memberOf, table } = bank.placed;
  const counts = countsByCluster(sets.train.windows, memberOf, bank.centroids.count, base.config.vocabularySize);
  const labels = labelsOf(counts, (id) => new TextDecoder().decode(base.tokenizer.pieceOf(id)));
  const positions = mapPositions(bank.centroids.vectors, bank.centroids.dimensions);
  return publish(
    options.outDirectory,
    { ...bank, scales: Float32Array.from(measured, ({ scale }) => scale) },
    table,
    base.tokenizerFile,
    labels.map((label, k) => ({
      label,
      size: memberOf.filter((member) => member === k).length,
      position: positions[k],
      ...measured[k],
    })),
    {
      prefixTokens,
      evidence: options.evidence,
      memory: base.memory,
      static: { gain: staticGain },
      model: {
        ...base.served,
        weights: base.weightsHash,
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
