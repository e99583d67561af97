/** Fits the two parts of an adapter, one after the other: the static adapter, and the hyper-network above it. */
import { join } from "node:path";
import { scoredTokens } from "../corpus/windows.ts";
import { keyOf, type Placed } from "../prepare.ts";
import type { Progress } from "../progress.ts";
import type { WindowSet } from "./batches.ts";
import { loadCheckpoint, saveCheckpoint } from "./checkpoint.ts";
import { LossMeter } from "./loss.ts";
import { type BankShape, bankShape, staticBank, type Trained } from "./parameters.ts";
import type { BankSettings } from "./settings.ts";
import { Trainer, type TrainerOptions, type TrainingClusters, type TrainingText } from "./trainer.ts";

export interface FitOptions extends Omit<BankSettings, "clusters" | "dimensions"> {
  /** Where checkpoints are kept. */
  cacheDirectory: string;
  /** Names all that the fit depends on besides these options. */
  key: string;
  threads: number;
}

/** A static adapter is the control of everything above it, so it gets a sweep of its own. */
const staticLearningRates = [1e-3, 3e-3, 1e-2];
const staticWeightDecay = 0.1;
/** Share of the steps that the hyper-network takes: a static adapter has fewer numbers to learn. */
const staticSteps = 0.5;
const stepsBetweenCheckpoints = 50;

/** The static adapter with the learning rate whose loss on `validation` is lowest. */
export async function fitStatic(
  text: TrainingText,
  validation: WindowSet,
  options: FitOptions,
  progress: Progress,
  signal?: AbortSignal,
): Promise<Trained> {
  const shape = bankShape({ rank: options.staticRank, biases: 1 });
  const meter = await LossMeter.open(text.head, shape.a0, options.threads);
  const indexes = [...validation.windows.keys()];
  const tokens = validation.windows.reduce((sum, window) => sum + scoredTokens(window), 0);
  const open = new Float32Array(shape.gates).fill(1);
  let best: { trained: Trained; loss: number } | null = null;
  try {
    for (const learningRate of staticLearningRates) {
      const name = `static ${learningRate}`;
      const rates = { learningRate, weightDecay: staticWeightDecay, steps: Math.ceil(staticSteps * options.steps) };
      const trained = await trainPart(name, text, shape, null, { ...options, ...rates }, progress, signal);
      const losses = await meter.measure(validation, indexes, staticBank(trained), () => open);
      const loss = losses.reduce((sum, nats) => sum + nats, 0) / tokens;
      progress.note(`${name}: ${loss.toFixed(4)} nats a token on validation`);
      if (!best || loss < best.loss) best = { trained, loss };
    }
  } finally {
    await meter.release();
  }
  return best!.trained;
}

/** The hyper-network above a static adapter. */
export function fitNetwork(
  text: TrainingText,
  { sets, centroids, memberOf }: Placed,
  fixed: Trained,
  options: FitOptions,
  progress: Progress,
  signal?: AbortSignal,
): Promise<Trained> {
  const shape = bankShape({ ...options, dimensions: centroids.dimensions });
  const { embeddings } = sets.train;
  const clusters = { embeddings, centroids: centroids.vectors, memberOf, above: staticBank(fixed) };
  return trainPart("hyper-network", text, shape, clusters, options, progress, signal);
}

/** Aborting stops after the current step with a checkpoint, and throws the signal's reason. */
async function trainPart(
  name: string,
  text: TrainingText,
  shape: BankShape,
  clusters: TrainingClusters | null,
  options: FitOptions & TrainerOptions,
  progress: Progress,
  signal?: AbortSignal,
): Promise<Trained> {
  const { seed, steps, learningRate, weightDecay, threads } = options;
  const key = keyOf(options.key, shape, clusters, { seed, steps, learningRate, weightDecay });
  const checkpoint = join(options.cacheDirectory, `checkpoint-${key}.safetensors`);
  const resumed = await loadCheckpoint(checkpoint);
  if (resumed) progress.note(`${name}: continuing from step ${resumed.step}`);
  const trainer = await Trainer.open(
    text,
    shape,
    clusters,
    { seed, steps, learningRate, weightDecay, threads },
    resumed,
  );
  const { state } = trainer;
  try {
    progress.stage(name, steps);
    while (state.step < steps) {
      const loss = await trainer.step();
      progress.advance(state.step, `loss ${loss.toFixed(3)}`);
      const isKept = signal?.aborted || state.step === steps || state.step % stepsBetweenCheckpoints === 0;
      if (isKept) await saveCheckpoint(checkpoint, state);
      signal?.throwIfAborted();
    }
  } finally {
    await trainer.release();
  }
  return { shape, parameters: state.parameters };
}
