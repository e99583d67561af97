/** Trains the static adapter and then the hyper-network, with checkpoints from which an interrupted run resumes. */
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
  /** Hash of what the result depends on besides the options: the base's weights and the windows of text. */
  key: string;
}

const stateVersion = 2;

/** All rates are tried: the static adapter must be as good as it can be, because centroids' scales are chosen by the gain over it. */
const staticLearningRates = [1e-3, 3e-3, 1e-2];
const staticWeightDecay = 0.1;
/** Steps of the static adapter, as a share of the hyper-network's steps. It needs fewer steps, because it has fewer parameters. */
const staticSteps = 0.5;
const stepsBetweenCheckpoints = 50;

/** Trains a static adapter at each learning rate. Returns the one with the lowest loss on `validation`. */
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

/** Trains the hyper-network, whose adapters are added to the static adapter `fixed`. */
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

/** Trains from the last checkpoint, if there is one. When `signal` aborts, writes a checkpoint and throws the signal's reason. */
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
