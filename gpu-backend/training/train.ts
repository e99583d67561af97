/** The same command resumes an interrupted run from `<out>/cache`, to the same bytes. */
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { setLimits } from "../../shared/artifacts/limits.ts";
import { type Manifest, setFiles } from "../../shared/artifacts/manifest.ts";
import { writeWhole } from "../files.ts";
import { fitNetwork, fitStatic } from "./bank/fit.ts";
import { documentGain, minMeasuredDocuments } from "./bank/gain.ts";
import { type Adapters, chooseScales, documentsByCentroid, measureWindows, perplexityOf } from "./bank/measure.ts";
import { servedParameters } from "./bank/parameters.ts";
import { openReader, plainHead } from "./bank/reader.ts";
import { readServedBank, type ServedBank } from "./bank/served-bank.ts";
import type { BankSettings, MemorySettings, TextSettings } from "./bank/settings.ts";
import { readBase, type TrainingBase } from "./base.ts";
import { countsByCluster, labelsOf, mapPositions } from "./clustering/describe.ts";
import type { CorpusSource } from "./corpus/read-corpus.ts";
import { documentKey, prefixTokens } from "./corpus/windows.ts";
import { type MemoryText, makeMemories } from "./memories.ts";
import { bySplit, type Placed, type Prepared, place, prepare, readWindows } from "./prepare.ts";
import type { Progress } from "./progress.ts";
import { publish, publishMemories } from "./publish.ts";
import { Random, streams } from "./random.ts";
import type { Run } from "./run.ts";

export interface TrainOptions extends Omit<BankSettings, "clusters">, TextSettings, MemorySettings {
  modelDirectory: string;
  outDirectory: string;
  corpora: readonly CorpusSource[];
  /** K. null: as many as the test documents can measure, at most `maxCentroids`. */
  clusters: number | null;
  threads: number;
  /** Default: the rule in `shared/math/evidence.ts`. */
  evidence?: Manifest["evidence"];
}

export const maxCentroids = 24;

/** When aborted, saves the current state and throws the signal's reason. */
export async function train(options: TrainOptions, progress: Progress, signal?: AbortSignal): Promise<Manifest> {
  requirePublishable(options);
  const base = await readBase(options.modelDirectory);
  const run = runOf(options, progress, signal);
  const prepared = await prepare(base, { ...options, windowSeed: options.seed }, run);
  const { head, sets, key } = prepared;
  const text = { head, set: sets.train };
  const fitOptions = { ...options, key };
  const fixed = await fitStatic(text, sets.validation, fitOptions, run);
  const placed = place(prepared, clustersFor(prepared, options), options.seed);
  const generated = await fitNetwork(text, placed, fixed, fitOptions, run);
  const adapters = { ...servedParameters(fixed, generated), centroids: placed.centroids };
  const measured = await measure(prepared, placed, adapters, options.seed, run);
  await publishTrained(prepared, placed, adapters, measured, options);
  const windows = bySplit((split) => sets[split].windows);
  return writeMemories(base, { ...prepared, windows }, await readServedBank(options.outDirectory), options, run);
}

/** Gives the set in `<modelDirectory>/artifacts`, which was trained on these corpora, new memories. Copies its other files. */
export async function renewMemories(
  options: TrainOptions,
  progress: Progress,
  signal?: AbortSignal,
): Promise<Manifest> {
  const base = await readBase(options.modelDirectory);
  const former = join(options.modelDirectory, "artifacts");
  const { corpora, chosen: windows } = await readWindows(base, { ...options, windowSeed: options.seed }, progress);
  for (const name of setFiles) await writeWhole(join(options.outDirectory, name), await readFile(join(former, name)));
  const served = await readServedBank(former);
  return writeMemories(base, { corpora, windows }, served, options, runOf(options, progress, signal));
}

function runOf({ threads, outDirectory }: TrainOptions, progress: Progress, signal?: AbortSignal): Run {
  return { threads, folder: join(outDirectory, "cache"), progress, signal };
}

async function writeMemories(
  base: TrainingBase,
  text: MemoryText,
  served: ServedBank,
  options: TrainOptions,
  run: Run,
): Promise<Manifest> {
  const memories = await makeMemories(base, text, served, options, run);
  const manifest = await publishMemories(options.outDirectory, served.manifest, memories);
  await rm(run.folder, { recursive: true, force: true });
  run.progress.end();
  return manifest;
}

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

/** Default: as many as the test documents can measure, at most `maxCentroids`. */
function clustersFor({ sets }: Prepared, { clusters }: TrainOptions): number {
  if (clusters !== null) return clusters;
  const documents = new Set(sets.test.windows.map(documentKey)).size;
  return Math.max(1, Math.min(maxCentroids, Math.floor(documents / minMeasuredDocuments)));
}

type Measured = Awaited<ReturnType<typeof measure>>;

/** In the result, `centroids` [K] has the scale and the gain of each centroid. */
async function measure(
  { head }: Prepared,
  { sets }: Placed,
  adapters: Adapters,
  seed: number,
  { threads, progress }: Run,
) {
  const reader = await openReader(plainHead(head), adapters.bank, threads);
  progress.stage("measuring", 2);
  const chosen = await chooseScales(reader, sets.validation, adapters);
  const documents = documentsByCentroid(sets.test, adapters.centroids);
  const scales = chosen.map((scale, k) => (documents[k] < minMeasuredDocuments ? 0 : scale));
  progress.advance(1, "scales");
  const losses = await measureWindows(reader, sets.test, adapters, scales);
  await reader.release();
  progress.advance(2, "gains");
  const random = new Random(seed, streams.bootstrap);
  const centroids = Array.from(scales, (scale, k) => {
    const own = losses.filter(({ centroid }) => centroid === k);
    return { scale, gain: documentGain(own, random) };
  });
  const staticGain = documentGain(
    losses.map((loss) => ({ ...loss, adapted: loss.fixed })),
    random,
  );
  return { centroids, staticGain, losses };
}

function publishTrained(
  { base, corpora, sets }: Prepared,
  { memberOf, table }: Placed,
  adapters: Adapters,
  { centroids, staticGain, losses }: Measured,
  options: TrainOptions,
): Promise<Manifest> {
  const { count, dimensions, vectors } = adapters.centroids;
  const counts = countsByCluster(sets.train.windows, memberOf, count, base.config.vocabularySize);
  const labels = labelsOf(counts, (id) => new TextDecoder().decode(base.tokenizer.pieceOf(id)));
  const positions = mapPositions(vectors, dimensions);
  return publish(
    options.outDirectory,
    { ...adapters, scales: Float32Array.from(centroids, ({ scale }) => scale) },
    table,
    base.tokenizerFile,
    labels.map((label, k) => ({
      label,
      size: memberOf.filter((member) => member === k).length,
      position: positions[k],
      ...centroids[k],
    })),
    {
      prefixTokens,
      evidence: options.evidence,
      memory: base.memory,
      static: { gain: staticGain },
      model: { ...base.served, weights: base.weightsHash },
      training: {
        seed: options.seed,
        steps: options.steps,
        corpora,
        basePerplexity: perplexityOf(losses, "base"),
        adaptedPerplexity: perplexityOf(losses, "adapted"),
      },
    },
  );
}
