/** Trains the static adapter, then the hyper-network. Checkpoints let an interrupted run resume. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { deserialize, serialize } from "node:v8";
import { nullIfMissing, writeWhole } from "../../files.ts";
import { scoredTokens } from "../corpus/windows.ts";
import type { WindowSet } from "../hidden-states.ts";
import type { Placed } from "../prepare.ts";
import { keyOf, type Run } from "../run.ts";
import { lossesOf } from "./measure.ts";
import { type BankShape, bankShape, staticBank, type Trained } from "./parameters.ts";
import { openReader, plainHead } from "./reader.ts";
import type { BankSettings } from "./settings.ts";
import { openTrainer, type TrainerState, type TrainingClusters, type TrainingText } from "./trainer.ts";

interface FitOptions extends Omit<BankSettings, "clusters" | "dimensions"> {
  /** Hash of the base's weights and the windows of text. */
  key: string;
}

const stateVersion = 2;

/** All rates are tried, because centroids' scales are chosen by the gain over the static adapter. */
const staticLearningRates = [1e-3, 3e-3, 1e-2];
const staticWeightDecay = 0.1;
/** Steps relative to the hyper-network's. Fewer parameters need fewer steps. */
const staticSteps = 0.5;
const stepsBetweenCheckpoints = 50;

/** Keeps the adapter of the learning rate with the lowest loss on `validation`. */
export async function fitStatic(
  text: TrainingText,
  validation: WindowSet,
  options: FitOptions,
  run: Run,
): Promise<Trained> {
  const shape = bankShape({ rank: options.staticRank, biases: 1 });
  const tokens = validation.windows.reduce((sum, window) => sum + scoredTokens(window), 0);
  const open = new Float32Array(shape.gates).fill(1);
  let best: { trained: Trained; loss: number } | null = null;
  for (const learningRate of staticLearningRates) {
    const name = `static ${learningRate}`;
    const rates = { learningRate, weightDecay: staticWeightDecay, steps: Math.ceil(staticSteps * options.steps) };
    const trained = await trainPart(name, text, shape, null, { ...options, ...rates }, run);
    const reader = await openReader(plainHead(text.head), staticBank(trained), run.threads);
    const losses = await lossesOf(reader, validation, () => open);
    await reader.release();
    const loss = losses.reduce((sum, nats) => sum + nats, 0) / tokens;
    run.progress.note(`${name}: ${loss.toFixed(4)} nats a token on validation`);
    if (!best || loss < best.loss) best = { trained, loss };
  }
  return best!.trained;
}

export function fitNetwork(
  text: TrainingText,
  { sets, centroids, memberOf }: Placed,
  fixed: Trained,
  options: FitOptions,
  run: Run,
): Promise<Trained> {
  const shape = bankShape({ ...options, dimensions: centroids.dimensions });
  const { embeddings } = sets.train;
  const clusters = { embeddings, centroids: centroids.vectors, memberOf, above: staticBank(fixed) };
  return trainPart("hyper-network", text, shape, clusters, options, run);
}

/** Resumes from the last checkpoint. When `signal` aborts, writes a checkpoint and throws the signal's reason. */
async function trainPart(
  name: string,
  text: TrainingText,
  shape: BankShape,
  clusters: TrainingClusters | null,
  { key: textKey, seed, steps, learningRate, weightDecay }: FitOptions,
  { threads, folder, progress, signal }: Run,
): Promise<Trained> {
  const key = keyOf(stateVersion, textKey, shape, clusters, { seed, steps, learningRate, weightDecay });
  const checkpoint = join(folder, `checkpoint-${key}`);
  const kept = await readFile(checkpoint).catch(nullIfMissing);
  const resumed = kept && (deserialize(kept) as TrainerState);
  if (resumed) progress.note(`${name}: continuing from step ${resumed.step}`);
  const trainerOptions = { seed, steps, learningRate, weightDecay, threads };
  const trainer = await openTrainer(text, shape, clusters, trainerOptions, resumed);
  const { state } = trainer;
  try {
    progress.stage(name, steps);
    while (state.step < steps) {
      const loss = await trainer.step();
      progress.advance(state.step, `loss ${loss.toFixed(3)}`);
      const isKept = signal?.aborted || state.step === steps || state.step % stepsBetweenCheckpoints === 0;
      if (isKept) await writeWhole(checkpoint, serialize(state));
      signal?.throwIfAborted();
    }
  } finally {
    await trainer.release();
  }
  return { shape, parameters: state.parameters };
}
