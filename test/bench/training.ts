/**
 * What training adapters for GPT-2 124M takes: hidden states, optimiser steps with the base's head in fp32 and in int8, and
 * the measuring afterwards, each timed on a few windows by the code that trains; projected to a corpus of a given size.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { floatsOf, weightOf } from "../../gpu-backend/runtime/model-weights.ts";
import { createTrunkRunner } from "../../gpu-backend/runtime/trunk-runner.ts";
import type { WindowSet } from "../../gpu-backend/training/bank/batches.ts";
import { LossMeter } from "../../gpu-backend/training/bank/loss.ts";
import { baseLosses } from "../../gpu-backend/training/bank/measure.ts";
import { bankShape, type Parameters } from "../../gpu-backend/training/bank/parameters.ts";
import { Trainer, tokensPerStep } from "../../gpu-backend/training/bank/trainer.ts";
import {
  type HeadFormat,
  type HeadWeights,
  headFormats,
  headIn,
} from "../../gpu-backend/training/bank/training-graph.ts";
import { scoredTokens, windowTokens } from "../../gpu-backend/training/corpus/windows.ts";
import { HiddenStates } from "../../gpu-backend/training/hidden-states.ts";
import { seededRandom } from "../support/steps.ts";
import { gpt2Config, gpt2Weights } from "./model.ts";
import { median } from "./quantile.ts";

const measuredWindows = 32;
const clusters = 4;
const dimensions = 64;
/** As `train` has it by default. */
const shape = bankShape({ rank: 64, biases: 8, hidden: 32, dimensions });
/** Passes over the validation windows that choose scales, and over the test windows that measure. */
const validationPasses = 5;
const testPasses = 2;
const heldOutWindows = 750;

export interface TrainingRow {
  threads: number;
  /** Seconds for 1,000 tokens. */
  hiddenStates: number;
  /** Seconds of a step. */
  step: Record<HeadFormat, number>;
  /** Seconds for 1,000 scored tokens. */
  scoring: number;
  /** Of the whole process. */
  peakBytes: number;
}

export async function measureTraining(threads: number, rounds: number): Promise<TrainingRow> {
  const folder = await mkdtemp(join(tmpdir(), "bench-training-"));
  try {
    return await measureIn(folder, threads, rounds);
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function measureIn(folder: string, threads: number, rounds: number): Promise<TrainingRow> {
  const { hiddenSize: D, vocabularySize: V, stopIds } = gpt2Config;
  const weights = await gpt2Weights();
  const random = seededRandom(8);
  const windows = Array.from({ length: measuredWindows }, (_, document) => ({
    corpus: 0,
    document,
    tokenIds: Int32Array.from({ length: windowTokens }, () => Math.floor(random() * stopIds[0])),
  }));
  const trunk = await createTrunkRunner({ config: gpt2Config, weights, threads });
  await trunk.hidden(windows[0].tokenIds, 1, windowTokens); // the first pass lays out memory
  let states: HiddenStates | undefined;
  const hiddenSeconds = await timed(async () => {
    states = await HiddenStates.open(join(folder, "hidden.f16"), windows, D, trunk, () => {});
  });
  await trunk.release();
  if (!states) throw new Error("no hidden states were computed");

  const head = {
    vocabularySize: V,
    hiddenSize: D,
    tokenEmbedding: floatsOf(weightOf(weights, "model.embed_tokens.weight")),
  };
  const embeddings = Float32Array.from({ length: measuredWindows * dimensions }, () => random() - 0.5);
  const set = { windows, states, firstState: 0, embeddings };
  const memberOf = Int32Array.from({ length: measuredWindows }, (_, i) => i % clusters);
  const centroids = Float32Array.from({ length: clusters * dimensions }, () => random() - 0.5);
  const options = { seed: 1, steps: 1000, learningRate: 1e-3, threads };
  const trainers = [];
  for (const format of headFormats) {
    const trainer = await Trainer.open(headIn(format, head), shape, set, { centroids, memberOf }, options, null);
    await trainer.step();
    trainers.push({ format, trainer, seconds: [] as number[] });
  }
  for (let round = 0; round < rounds; round++) {
    for (const one of round % 2 ? trainers.toReversed() : trainers) {
      one.seconds.push(await timed(() => one.trainer.step()));
    }
  }
  const { parameters } = trainers[0].trainer.state;
  for (const { trainer } of trainers) await trainer.release();
  const step = Object.fromEntries(trainers.map(({ format, seconds }) => [format, median(seconds)]));

  const scoring = await scoringSeconds(head, set, parameters, threads);
  await states.close();
  return {
    threads,
    hiddenStates: (1000 * hiddenSeconds) / (measuredWindows * windowTokens),
    step: step as TrainingRow["step"],
    scoring,
    peakBytes: process.resourceUsage().maxRSS * 1024,
  };
}

/** Seconds for 1,000 scored tokens: what chooses and measures after the last step. */
async function scoringSeconds(
  head: HeadWeights,
  set: WindowSet,
  parameters: Parameters,
  threads: number,
): Promise<number> {
  const meter = await LossMeter.open(head, shape, threads);
  const indexes = [...set.windows.keys()].slice(0, 8);
  await baseLosses(meter, set, parameters, [0]);
  const seconds = await timed(() => baseLosses(meter, set, parameters, indexes));
  await meter.release();
  return (1000 * seconds) / indexes.reduce((sum, i) => sum + scoredTokens(set.windows[i]), 0);
}

async function timed(run: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await run();
  return (performance.now() - started) / 1000;
}

/** The times, and what they come to for so many tokens of training text and steps. */
export function trainingLines(row: TrainingRow, tokens: number, steps: number): string[] {
  const scoredShare = 0.75; // of a window
  const heldOutTokens = heldOutWindows * windowTokens;
  const hidden = (row.hiddenStates * (tokens + 2 * heldOutTokens)) / 1000;
  const scored = (heldOutTokens * scoredShare * (validationPasses + testPasses)) / 1000;
  const measured = row.scoring * scored;
  const minutes = (seconds: number) => `${(seconds / 60).toFixed(0)} min`;
  return [
    `${row.threads} thread(s); hidden states ${row.hiddenStates.toFixed(2)} s for 1,000 tokens; scoring ${row.scoring.toFixed(2)} s`,
    ...headFormats.map((format) => {
      const total = hidden + steps * row.step[format] + measured;
      const parts = `hidden states ${minutes(hidden)}, steps ${minutes(steps * row.step[format])}, measuring ${minutes(measured)}`;
      return `head ${format}: ${row.step[format].toFixed(2)} s a step of ${tokensPerStep.toLocaleString("en")} tokens; ${tokens.toLocaleString("en")} tokens and ${steps} steps: ${minutes(total)} (${parts})`;
    }),
    `peak memory ${(row.peakBytes / 1e9).toFixed(2)} GB; hidden states on disk ${(((tokens + 2 * heldOutTokens) * scoredShare * gpt2Config.hiddenSize * 2) / 1e9).toFixed(2)} GB`,
  ];
}
