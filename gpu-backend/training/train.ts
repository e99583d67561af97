/**
 * The whole way from corpora to artifacts. Resumable: hidden states and the optimiser's state are kept in
 * `<out>/cache`, and the same options go on from there to the same bytes.
 */
import { rm } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { setLimits } from "../../shared/artifacts/limits.ts";
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import { openHeadSession } from "../runtime/head-probabilities.ts";
import { gatedKind } from "./bank/bank-kinds.ts";
import type { PlacedSet } from "./bank/batches.ts";
import { loadCheckpoint, saveCheckpoint } from "./bank/checkpoint.ts";
import { documentGain, documentMean } from "./bank/gain.ts";
import { LossMeter } from "./bank/loss.ts";
import { type Adapters, chooseScales, hyperNetworkAdapters, measureWindows, perplexityOf } from "./bank/measure.ts";
import { bankShape } from "./bank/parameters.ts";
import { choosePromptBias, logFrequenciesOf, measurePromptBias, promptLengths } from "./bank/prompt-bias.ts";
import { runToEnd } from "./bank/run.ts";
import { Trainer } from "./bank/trainer.ts";
import { type HeadFormat, headIn } from "./bank/training-graph.ts";
import { countsByCluster, labelsOf, positionsIn, principalPlane } from "./clustering/describe.ts";
import { profileOf } from "./clustering/profile.ts";
import type { CorpusSource } from "./corpus/read-corpus.ts";
import { documentKey, prefixTokens } from "./corpus/windows.ts";
import { assignAll } from "./embed.ts";
import { keyOf, type Placed, type Prepared, place, prepare } from "./prepare.ts";
import type { Progress } from "./progress.ts";
import { publish, type TrainedBank } from "./publish.ts";
import { Random } from "./random.ts";
import { streams } from "./streams.ts";

export interface TrainOptions {
  modelDirectory: string;
  outDirectory: string;
  corpora: readonly CorpusSource[];
  seed: number;
  clusters: number; // K
  rank: number; // R
  biases: number; // M
  hidden: number; // H
  dimensions: number; // P
  steps: number;
  learningRate: number;
  /** Of the base's logits in training steps. */
  headFormat: HeadFormat;
  trainWindows: number;
  /** For validation, and again for test. */
  heldOutWindows: number;
  threads: number;
  /** Keep `<out>/cache` when done. */
  keepCache: boolean;
}

const stepsBetweenCheckpoints = 50;
/** What public requests call an embedded GPT-2, whatever its size. */
const servedAs = "gpt2";

/** Trains and publishes. Aborting stops after the current step with a checkpoint, and throws the signal's reason. */
export async function train(options: TrainOptions, progress: Progress, signal?: AbortSignal): Promise<Manifest> {
  requirePublishable(options);
  const cacheDirectory = join(options.outDirectory, "cache");
  const prepared = await prepare(
    {
      ...options,
      cacheDirectory,
      unseenCorpora: [],
      splitSeed: options.seed,
      validationWindows: options.heldOutWindows,
      testWindows: options.heldOutWindows,
    },
    progress,
    signal,
  );
  let manifest: Manifest;
  try {
    const bank = await trainBank(prepared, options, cacheDirectory, progress, signal);
    manifest = await measureAndPublish(prepared, bank, options, progress);
  } finally {
    await prepared.close();
  }
  if (!options.keepCache) await rm(cacheDirectory, { recursive: true });
  progress.end();
  return manifest;
}

/** Throws an Error before anything is trained that a manifest could not say. */
function requirePublishable({ clusters, rank, biases, hidden, dimensions, corpora }: TrainOptions): void {
  const sizes = {
    centroids: clusters,
    gates: rank + biases,
    hiddenUnits: hidden,
    ...{ dimensions, corpora: corpora.length },
  };
  for (const [name, size] of Object.entries(sizes) as [keyof typeof sizes, number][]) {
    if (size > setLimits[name]) throw new Error(`${name}: ${size}, a set of artifacts has at most ${setLimits[name]}`);
  }
}

interface Bank extends Omit<TrainedBank, "scales"> {
  placed: Placed;
}

async function trainBank(
  prepared: Prepared,
  options: TrainOptions,
  cacheDirectory: string,
  progress: Progress,
  signal?: AbortSignal,
): Promise<Bank> {
  const { head, space } = prepared;
  const placed = place(prepared, options.clusters, options.seed);
  const { sets, centroids } = placed;
  const K = centroids.count;
  const shape = bankShape({ ...options, dimensions: centroids.dimensions });
  const { seed, steps, learningRate, headFormat, threads } = options;
  const checkpoint = join(
    cacheDirectory,
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
  return {
    shape,
    head,
    parameters,
    centroids,
    unigram: logFrequenciesOf(sets.train.windows, head.vocabularySize),
    space,
    placed,
  };
}

async function measureAndPublish(
  prepared: Prepared,
  bank: Bank,
  options: TrainOptions,
  progress: Progress,
): Promise<Manifest> {
  const { model, tokenizer } = prepared;
  const { sets, memberOf, table } = bank.placed;
  const K = bank.centroids.count;
  const meter = await LossMeter.open(bank.head, bank.shape, options.threads);
  progress.stage("measuring", 3);
  const adapters = hyperNetworkAdapters(bank.head, bank.shape, bank.parameters, bank.centroids);
  const scales = await chooseScales(meter, sets.validation, adapters);
  progress.advance(1, "scales");
  const losses = await measureWindows(meter, sets.test, adapters, scales);
  await meter.release();
  progress.advance(2, "gains");
  const promptBias = await fitPromptBias(prepared, bank, adapters, scales, options);
  progress.advance(3, "prompt bias");

  const counts = countsByCluster(sets.train.windows, memberOf, K, bank.head.vocabularySize);
  const labels = labelsOf(counts, (id) => new TextDecoder().decode(tokenizer.pieceOf(id)));
  const plane = principalPlane(bank.centroids.vectors, bank.centroids.dimensions);
  const positions = positionsIn(plane, bank.centroids.vectors);
  const random = new Random(options.seed, streams.bootstrap);
  const { vocabularySize, hiddenSize, layers, heads, contextTokens, endOfTextId } = model.config;
  return publish(
    options.outDirectory,
    { ...bank, scales },
    table,
    prepared.tokenizerFile,
    labels.map((label, k) => ({
      label,
      size: memberOf.filter((member) => member === k).length,
      position: positions[k],
      scale: scales[k],
      gain: documentGain(
        losses.filter(({ centroid }) => centroid === k),
        random,
      ),
      promptBias: promptBias.strengths[k],
    })),
    {
      prefixTokens,
      promptBias: { prior: promptBias.prior, gains: promptBias.gains },
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
        corpora: prepared.corpora.map(({ unseen: _, ...corpus }) => corpus),
        basePerplexity: perplexityOf(losses, "base"),
        adaptedPerplexity: perplexityOf(losses, "adapted"),
        assignments: profileOf([...sets.validation.windows, ...sets.test.windows], table, bank.centroids),
      },
    },
  );
}

/** Strengths of the prompt bias, chosen on validation, and what it gains on test on top of what is shipped. */
async function fitPromptBias(
  prepared: Prepared,
  { placed, head: weights, shape, parameters, unigram }: Bank,
  adapters: Adapters,
  scales: Float32Array,
  { threads, seed }: TrainOptions,
) {
  const { hiddenSize: D } = weights;
  const { sets, centroids } = placed;
  const bank = { gates: shape.gates, a: parameters.get("a")!, a0: shape.a0, b: parameters.get("b")! };
  const head = await openHeadSession(weights.tokenEmbedding, D, bank, threads);
  const frequencies = { logarithms: unigram, endOfTextId: prepared.model.config.endOfTextId };
  const gates = Array.from(scales, (scale, k) => adapters.gatesAt(k, scale));
  const wornIn = (set: PlacedSet) => ({ gates, groupOf: assignAll(set.embeddings, centroids) });
  try {
    const { validation, test } = sets;
    const { prior, strengths } = await choosePromptBias(head, D, validation, wornIn(validation), frequencies);
    // Where the adapter does not gain the base is served, and nothing but the base.
    const served = strengths.map((strength, k) => (scales[k] === 0 ? 0 : strength));
    const choicesOf = (k: number) => [{ prior, strength: served[k] }];
    const measured = await measurePromptBias(head, D, test, wornIn(test), frequencies, choicesOf);
    const gains = promptLengths.flatMap((promptTokens) => {
      const sums = measured
        .filter((one) => one.promptTokens === promptTokens)
        .map(({ window, tokens, gains: [sum] }) => ({ document: documentKey(test.windows[window]), tokens, sum }));
      const gain = documentMean(sums, new Random(seed, streams.promptBias));
      return gain ? [{ promptTokens, gain }] : [];
    });
    return { prior, strengths: served, gains };
  } finally {
    await head.release();
  }
}
