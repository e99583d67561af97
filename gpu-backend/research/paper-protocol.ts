/**
 * The paper's protocol (arXiv 2502.04315): its three regimes and the shipped adapters, each by the paper's measure and by an honest
 * one, beside a control that adds one number to the padding's logit. The paper scores the last position of padded lines, so its
 * measure mostly tells how well the padding is predicted. The published order appears after 1,200 steps; after 300 LoRA leads.
 */

import { adamWStep, learningRateAt } from "../../shared/math/adamw.ts";
import { rankCentroids } from "../../shared/math/assignment.ts";
import type { Bank } from "../runtime/step.ts";
import { LossMeter } from "../training/bank/loss.ts";
import { gatesAt } from "../training/bank/measure.ts";
import type { ServedBank } from "../training/bank/served-bank.ts";
import { adamWDefaults } from "../training/bank/trainer.ts";
import type { Prepared } from "../training/prepare.ts";
import type { Progress } from "../training/progress.ts";
import { Random, streams } from "../training/random.ts";
import { PairHead } from "./lora-head.ts";
import { paperNetwork, rank, staticLora, type Trainable, type Weights } from "./paper-network.ts";
import { type Batch, linePositions, type Positions, paragraphsOf, windowPositions } from "./positions.ts";

/** The paper's own figures, for GPT-2 and WikiText-2. */
interface Published {
  parameters: number;
  loss: number;
  perplexity: number;
}

export interface PaperRow {
  regime: string;
  published: Published | null;
  /** Trainable numbers, here. */
  trainable: number;
  /** Mean loss by the paper's measure, nats a line. */
  paperLoss: number;
  /** Mean loss of the same adapter on the tokens of ordinary text, nats a token. */
  honestLoss: number;
}

export interface PaperResult {
  rows: PaperRow[];
  /** Lines that were scored. */
  lines: number;
  /** Share of them whose scored token is the padding. */
  paddedShare: number;
  /** What the control adds to the padding's logit. */
  padBias: number;
}

export interface PaperOptions {
  /** Lines to train on; a quarter as many are scored. */
  lines: number;
  steps: number;
  learningRate: number;
  seed: number;
  threads: number;
}

const optimiser = { ...adamWDefaults, weightDecay: 0 };

/** Trains LoRA and the paper's network by the paper's loss, and scores all regimes by both measures. */
export async function paperProtocol(
  { base: { openTrunk, config, tokenizer }, head, sets }: Prepared,
  served: ServedBank,
  options: PaperOptions,
  progress: Progress,
): Promise<PaperResult> {
  const { seed, threads, lines } = options;
  const { table } = served;
  const [padId] = config.stopIds;
  const trunk = await openTrunk(threads);
  const linesOf = (split: "train" | "test", limit: number) =>
    linePositions(paragraphsOf(sets[split].windows, tokenizer, limit), padId, table, trunk, seed, progress);
  const train = await linesOf("train", lines);
  const scored = await linesOf("test", Math.ceil(lines / 4));
  await trunk.release();
  const honest = await windowPositions(sets.test, table, served.adapters.centroids, head.hiddenSize);

  const lora = staticLora(head);
  const network = paperNetwork(head, table.dimensions);
  const pairHead = await PairHead.open(head, rank, threads);
  const bankMeter = await LossMeter.open(head, served.adapters.bank.a0, threads);
  try {
    const loraWeights = await trainOnLines(lora, pairHead, train, options, progress, "static LoRA");
    const networkWeights = await trainOnLines(network, pairHead, train, options, progress, "paper's network");
    const { adapters, scales } = served;
    const byPair =
      (trainable: Trainable, weights: Weights) =>
      async ({ hidden, targets, input }: Batch) =>
        (await pairHead.run(hidden, targets, trainable.forward(weights, input).pair)).losses;
    const base = (batch: Batch) => losses(bankMeter, batch, adapters.bank, new Float32Array(adapters.bank.gates));
    const shipped = (batch: Batch) => {
      const [{ index }] = rankCentroids(batch.input, adapters.centroids);
      return losses(bankMeter, batch, adapters.bank, gatesAt(adapters, index, scales[index]));
    };
    const baseOn = async (positions: Positions) => {
      const tokens: BaseToken[] = [];
      for (const batch of positions.batches) {
        const target = await base(batch);
        const pad = await base({ ...batch, targets: batch.targets.map(() => padId) });
        for (const [n, id] of batch.targets.entries()) {
          tokens.push({ target: target[n], pad: pad[n], isPad: id === padId });
        }
      }
      return tokens;
    };
    const padBias = bestBias(await baseOn(train));
    const row = async (
      regime: string,
      published: Published | null,
      trainable: number,
      lossesOf: (batch: Batch) => Promise<Float32Array>,
    ): Promise<PaperRow> => ({
      ...{ regime, published, trainable },
      paperLoss: await meanLoss(scored, lossesOf),
      honestLoss: await meanLoss(honest, lossesOf),
    });
    const publishedAs = (parameters: number, loss: number, perplexity: number) => ({ parameters, loss, perplexity });
    const { bank } = adapters;
    return {
      rows: [
        await row("unadapted", publishedAs(124_439_808, 10.2513, 28_319), 0, base),
        await row(
          "traditional LoRA",
          publishedAs(204_100, 1.3528, 3.8683),
          countOf(loraWeights),
          byPair(lora, loraWeights),
        ),
        await row(
          "ChameleonLLM",
          publishedAs(6_786_596, 0.3753, 1.4554),
          countOf(networkWeights),
          byPair(network, networkWeights),
        ),
        {
          ...{ regime: `base, padding's logit + ${padBias}`, published: null, trainable: 1 },
          paperLoss: biasedLoss(await baseOn(scored), padBias),
          honestLoss: biasedLoss(await baseOn(honest), padBias),
        },
        await row("shipped adapters, nearest", null, bank.a.length + bank.b.length, shipped),
      ],
      lines: scored.count,
      paddedShare:
        scored.batches.flatMap(({ targets }) => [...targets]).filter((id) => id === padId).length / scored.count,
      padBias,
    };
  } finally {
    await Promise.all([pairHead.release(), bankMeter.release()]);
  }
}

/** Each step takes one batch of lines. */
async function trainOnLines(
  trainable: Trainable,
  pairHead: PairHead,
  { batches }: Positions,
  { steps, learningRate, seed }: PaperOptions,
  progress: Progress,
  name: string,
): Promise<Weights> {
  const weights = trainable.initial(seed);
  const zeros = ({ length }: Float32Array) => new Float32Array(length);
  const moments = new Map(
    [...weights].map(([of, values]) => [of, { first: zeros(values), second: zeros(values) }] as const),
  );
  progress.stage(name, steps);
  for (let step = 1; step <= steps; step++) {
    const random = new Random(seed, streams.firstStep + step);
    const { hidden, targets, input } = batches[random.integer(batches.length)];
    const { pair, backward } = trainable.forward(weights, input, random);
    const { gradients } = await pairHead.run(hidden, targets, pair);
    const rate = learningRateAt(step, steps, learningRate, Math.min(20, steps / 4));
    for (const [of, gradient] of backward(gradients)) {
      adamWStep(weights.get(of)!, gradient, moments.get(of)!, step, rate, optimiser);
    }
    progress.advance(step);
  }
  return weights;
}

/** Losses of a batch's positions, nats, [N]. */
function losses(meter: LossMeter, { hidden, targets }: Batch, bank: Bank, gates: Float32Array): Promise<Float32Array> {
  const ofAll = new Float32Array(targets.length * gates.length);
  for (let n = 0; n < targets.length; n++) ofAll.set(gates, n * gates.length);
  return meter.tokenLosses(hidden, targets, ofAll, bank);
}

async function meanLoss(
  { batches, count }: Positions,
  lossesOf: (batch: Batch) => Promise<Float32Array>,
): Promise<number> {
  let sum = 0;
  for (const batch of batches) for (const nats of await lossesOf(batch)) sum += nats;
  return sum / count;
}

function countOf(weights: Weights): number {
  return weights.values().reduce((sum, { length }) => sum + length, 0);
}

/** Losses of one token under the base, in nats: of the target itself, and of the padding in its place. */
interface BaseToken {
  target: number;
  pad: number;
  isPad: boolean;
}

/** The bias with the lowest loss. */
function bestBias(tokens: readonly BaseToken[]): number {
  const candidates = Array.from({ length: 61 }, (_, i) => i / 2);
  const lossOf = candidates.map((bias) => biasedLoss(tokens, bias));
  return candidates[lossOf.indexOf(Math.min(...lossOf))];
}

/** Mean loss under the base with `bias` added to the padding's logit. */
function biasedLoss(tokens: readonly BaseToken[], bias: number): number {
  const sum = tokens.reduce(
    (total, { target, pad, isPad }) =>
      total + target - (isPad ? bias : 0) + Math.log1p(Math.exp(-pad) * Math.expm1(bias)),
    0,
  );
  return sum / tokens.length;
}
