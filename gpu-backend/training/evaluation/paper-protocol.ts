/**
 * The paper's protocol, reproduced on purpose: its three rows by its own measure (paper-lines.ts says what that scores),
 * the same adapters by the honest one, and a control that adds one number to one logit, that of the padding. The number of
 * steps is not innocent: it was raised until the published order appeared (after 300 steps LoRA is ahead, after 1,200 the
 * network), which documents must say beside the figures.
 */
import { openSession, type Session, tensor } from "../../runtime/session.ts";
import { createTrunkRunner } from "../../runtime/trunk-runner.ts";
import { adamWStep, learningRateAt } from "../bank/adamw.ts";
import { staticKind } from "../bank/bank-kinds.ts";
import { gatherBatch, wholeWindow } from "../bank/batches.ts";
import { fullKind } from "../bank/full-kind.ts";
import type { Kind } from "../bank/kind.ts";
import { LossMeter } from "../bank/loss.ts";
import { baseLosses, staticAdapter, wholePair } from "../bank/measure.ts";
import { bankShape, type Parameters } from "../bank/parameters.ts";
import { adamWDefaults } from "../bank/trainer.ts";
import { buildLossGraph } from "../bank/training-graph.ts";
import { scoredTokens } from "../corpus/windows.ts";
import type { Placed, Prepared } from "../prepare.ts";
import type { Progress } from "../progress.ts";
import { Random } from "../random.ts";
import { streams } from "../streams.ts";
import { batchMeanLosses } from "./batch-mean.ts";
import { fullShapeOf, paperNetwork, published } from "./methods.ts";
import { gatherLines, type Lines, paragraphsOf, prepareLines } from "./paper-lines.ts";

/** A row of the paper's table, by both measures. */
interface PaperRow {
  row: string;
  trainable: number;
  /** Mean loss by the paper's measure, and what the paper gives for GPT-2; null for what it has no row of. */
  paperLoss: number;
  published: number | null;
  /** The same adapters on the honest test windows, nats a token. */
  honestLoss: number;
}

export interface PaperResult {
  rows: PaperRow[];
  /** Scored lines, and the share of them that end in padding. */
  lines: number;
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

const rank = 4;
/** Honest test windows that the adapters are scored on too. */
const honestWindows = 400;

/** Trains static LoRA and the paper's network by the paper's loss, and scores them by both measures. */
export async function paperProtocol(
  prepared: Prepared,
  placed: Placed,
  options: PaperOptions,
  progress: Progress,
): Promise<PaperResult> {
  const { model, head, tokenizer } = prepared;
  const { seed, threads } = options;
  const padId = model.config.endOfTextId;
  const trunk = await createTrunkRunner({ config: model.config, weights: model.weights, threads });
  const linesOf = (split: "train" | "test", limit: number) =>
    prepareLines(
      paragraphsOf(prepared.sets[split].windows, tokenizer, limit),
      padId,
      placed.table,
      trunk,
      seed,
      progress,
    );
  const train = await linesOf("train", options.lines);
  const scored = await linesOf("test", Math.ceil(options.lines / 4));
  await trunk.release();

  const shape = bankShape({ rank, biases: 0, hidden: 0, dimensions: placed.table.dimensions });
  const meter = await LossMeter.open(head, shape, threads);
  const lineSession = await openSession(buildLossGraph(head, shape), { threads });
  const judge = new Judge(prepared, placed, meter, lineSession, rank);
  try {
    const lora = staticKind(head, shape);
    const network = fullKind(head, fullShapeOf(shape.dimensions), published);
    const start = lora.initial(seed);
    const loraParameters = await trainOnLines(lora, train, options, progress, "static LoRA, paper's loss");
    const networkParameters = await trainOnLines(network, train, options, progress, "paper's network, paper's loss");
    const padBias = await judge.padBias(train, start, padId);
    const biased = await judge.biasedLoss(scored, start, padId, padBias);
    const closed = new Float32Array(rank);
    const open = new Float32Array(rank).fill(1);
    const rows: PaperResult["rows"] = [
      {
        row: "unadapted",
        trainable: 0,
        paperLoss: await judge.lineLoss(scored, () => start, closed),
        published: 10.2513,
        honestLoss: await judge.honestBase(start),
      },
      {
        row: "traditional LoRA",
        trainable: lora.trainable,
        paperLoss: await judge.lineLoss(scored, () => loraParameters, open),
        published: 1.3528,
        honestLoss: await judge.honestStatic(loraParameters),
      },
      {
        row: "ChameleonLLM",
        trainable: network.trainable,
        paperLoss: await judge.lineLoss(scored, (input) => judge.pairOf(networkParameters, input), open),
        published: 0.3753,
        honestLoss: await judge.honestNetwork(networkParameters),
      },
      {
        row: "base, pad logit biased",
        trainable: 1,
        paperLoss: biased,
        published: null,
        honestLoss: await judge.honestBiased(start, padId, padBias),
      },
    ];
    const padded = scored.targets.filter((id) => id === padId).length;
    return { rows, padBias, lines: scored.targets.length, paddedShare: padded / scored.targets.length };
  } finally {
    await Promise.all([meter.release(), lineSession.release()]);
  }
}

/** Each step takes one batch of lines of one cluster. */
async function trainOnLines(
  kind: Kind,
  lines: Lines,
  { steps, learningRate, seed, threads }: PaperOptions,
  progress: Progress,
  name: string,
): Promise<Parameters> {
  const session = await openSession(kind.graph(), { threads });
  const parameters = kind.initial(seed);
  const moments = new Map(
    [...parameters].map(([name, { length }]) => [
      name,
      { first: new Float32Array(length), second: new Float32Array(length) },
    ]),
  );
  progress.stage(name, steps);
  for (let step = 1; step <= steps; step++) {
    const random = new Random(seed, streams.firstStep + step);
    const { indexes, input } = lines.batches[random.integer(lines.batches.length)];
    const { hidden, targets } = gatherLines(lines, indexes);
    const window = { cluster: 0, batch: 0, embedding: input };
    const results = await session.run({
      ...Object.fromEntries([...parameters].map(([name, values]) => [name, tensor(values, kind.shapeOf(name))])),
      ...kind.feeds({ windows: [window], windowOf: new Int32Array(targets.length), stepSeed: seed * steps + step }),
      hidden: tensor(hidden, [targets.length, kind.head.hiddenSize]),
      targets: tensor(targets, [targets.length]),
      weight: tensor(Float32Array.of(1 / targets.length), []),
    });
    const rate = learningRateAt(step, steps, learningRate, Math.min(20, steps / 4));
    for (const [name, values] of parameters) {
      adamWStep(values, results[`d_${name}`].data as Float32Array, moments.get(name)!, step, rate, adamWDefaults);
    }
    progress.advance(step);
  }
  await session.release();
  return parameters;
}

/** Scores by the paper's measure and by the honest one. */
class Judge {
  readonly #prepared: Prepared;
  readonly #placed: Placed;
  readonly #meter: LossMeter;
  readonly #session: Session;
  readonly #rank: number;
  readonly #honest: number[];

  constructor(prepared: Prepared, placed: Placed, meter: LossMeter, session: Session, rank: number) {
    this.#prepared = prepared;
    this.#placed = placed;
    this.#meter = meter;
    this.#session = session;
    this.#rank = rank;
    const { windows } = placed.sets.test;
    const every = Math.max(1, Math.ceil(windows.length / honestWindows));
    this.#honest = [...windows.keys()].filter((i) => i % every === 0);
  }

  pairOf(parameters: Parameters, input: Float32Array): Parameters {
    const { head } = this.#prepared;
    const { a, b } = wholePair(paperNetwork(head, input.length, parameters), input);
    return new Map([
      ["a", a],
      ["b", b],
    ]);
  }

  /** Mean loss of the token at the last position, nats a line; a batch is served by what is made of its mean. */
  async lineLoss(lines: Lines, adapterOf: (input: Float32Array) => Parameters, gates: Float32Array): Promise<number> {
    let loss = 0;
    for (const { indexes, input } of lines.batches) {
      for (const nll of await this.#lineLosses(lines, indexes, adapterOf(input), gates, null)) loss += nll;
    }
    return loss / lines.targets.length;
  }

  /** What, added to the padding's logit, makes the base best on these lines. */
  async padBias(lines: Lines, start: Parameters, padId: number): Promise<number> {
    const losses = await this.#baseAndPad(lines, start, padId);
    const candidates = Array.from({ length: 61 }, (_, i) => i / 2);
    const lossOf = candidates.map((bias) => losses.reduce((sum, line) => sum + biasedLineLoss(line, bias), 0));
    return candidates[lossOf.indexOf(Math.min(...lossOf))];
  }

  async biasedLoss(lines: Lines, start: Parameters, padId: number, bias: number): Promise<number> {
    const losses = await this.#baseAndPad(lines, start, padId);
    return losses.reduce((sum, line) => sum + biasedLineLoss(line, bias), 0) / losses.length;
  }

  async honestBase(start: Parameters): Promise<number> {
    return this.#mean(await baseLosses(this.#meter, this.#placed.sets.test, start, this.#honest));
  }

  /** The base with the bias on the padding's logit, on text without padding: what the bias takes from every other token. */
  async honestBiased(start: Parameters, padId: number, bias: number): Promise<number> {
    const { hiddenSize: D } = this.#prepared.head;
    const { test } = this.#placed.sets;
    let loss = 0;
    let tokens = 0;
    for (const index of this.#honest) {
      const { hidden, targets } = await gatherBatch(test, [wholeWindow(test, index)], D);
      const closed = new Float32Array(targets.length * this.#rank);
      const ofTarget = await this.#meter.tokenLosses(hidden, targets, closed, start);
      const ofPad = await this.#meter.tokenLosses(
        hidden,
        targets.map(() => padId),
        closed,
        start,
      );
      for (const [n, id] of targets.entries()) {
        loss += biasedLineLoss({ target: ofTarget[n], pad: ofPad[n], isPad: id === padId }, bias);
      }
      tokens += targets.length;
    }
    return loss / tokens;
  }

  async honestStatic(parameters: Parameters): Promise<number> {
    const shape = bankShape({ rank: this.#rank, biases: 0, hidden: 0, dimensions: this.#placed.table.dimensions });
    const gates = staticAdapter(shape, parameters).gatesAt(0, 1);
    return this.#mean(await this.#meter.measure(this.#placed.sets.test, this.#honest, parameters, () => gates));
  }

  async honestNetwork(parameters: Parameters): Promise<number> {
    const { sets, centroids, table } = this.#placed;
    const network = paperNetwork(this.#prepared.head, table.dimensions, parameters);
    return this.#mean(await batchMeanLosses(this.#meter, sets.test, this.#honest, network, centroids));
  }

  async #baseAndPad(lines: Lines, start: Parameters, padId: number): Promise<BaseLine[]> {
    const closed = new Float32Array(this.#rank);
    const all = [...lines.targets.keys()];
    const ofTarget = await this.#lineLosses(lines, all, start, closed, null);
    const ofPad = await this.#lineLosses(lines, all, start, closed, padId);
    return all.map((i) => ({ target: ofTarget[i], pad: ofPad[i], isPad: lines.targets[i] === padId }));
  }

  /** Losses of some lines under an adapter, against their own targets or one target for all. */
  async #lineLosses(
    lines: Lines,
    indexes: readonly number[],
    parameters: Parameters,
    gates: Float32Array,
    target: number | null,
  ): Promise<Float32Array> {
    const { hiddenSize: D, vocabularySize: V } = this.#prepared.head;
    const { hidden, targets } = gatherLines(lines, indexes);
    const N = targets.length;
    const gatesOfAll = new Float32Array(N * this.#rank);
    for (let n = 0; n < N; n++) gatesOfAll.set(gates, n * this.#rank);
    const results = await this.#session.run({
      hidden: tensor(hidden, [N, D]),
      targets: tensor(target === null ? targets : new Int32Array(N).fill(target), [N]),
      gates: tensor(gatesOfAll, [N, this.#rank]),
      a: tensor(parameters.get("a")!, [this.#rank, D]),
      b: tensor(parameters.get("b")!, [this.#rank, V]),
    });
    return results.nll.data as Float32Array;
  }

  #mean(sums: Float64Array): number {
    const { windows } = this.#placed.sets.test;
    const tokens = this.#honest.reduce((sum, i) => sum + scoredTokens(windows[i]), 0);
    return sums.reduce((sum, nats) => sum + nats, 0) / tokens;
  }
}

interface BaseLine {
  /** Loss of the target and of the padding, nats. */
  target: number;
  pad: number;
  isPad: boolean;
}

/** Loss of the target once `bias` is added to the padding's logit. */
function biasedLineLoss({ target, pad, isPad }: BaseLine, bias: number): number {
  const probability = Math.exp(-pad);
  return target - (isPad ? bias : 0) + Math.log1p(probability * Math.expm1(bias));
}
