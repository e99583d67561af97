/**
 * Trains a static adapter, or a hyper-network whose adapters are added to one, on cached hidden states. Every draw of a step depends on
 * seed and step number alone, so parameters, moments and the step number are the whole state: a resumed run equals an unbroken one.
 */

import { type AdamWOptions, adamWStep, learningRateAt, type Moments } from "../../../shared/math/adamw.ts";
import { openSession, type Session, type Tensor, tensor } from "../../runtime/session.ts";
import type { Bank } from "../../runtime/step.ts";
import { scoredTokens } from "../corpus/windows.ts";
import { Random, streams } from "../random.ts";
import { type Batch, gatherBatch, type PlacedSet, runsOf, type WindowPart, type WindowSet } from "./batches.ts";
import { type BankShape, initialParameters, type ParameterName, type Parameters, shapeOf } from "./parameters.ts";
import { buildTrainingGraph, type HeadWeights } from "./training-graph.ts";

export interface TrainerOptions {
  seed: number;
  steps: number;
  learningRate: number;
  weightDecay: number;
  threads: number;
}

/** What a trainer learns from. */
export interface TrainingText {
  head: HeadWeights;
  set: WindowSet;
}

/** Where the windows of a hyper-network lie, and what it is trained above. */
export interface TrainingClusters {
  embeddings: PlacedSet["embeddings"];
  centroids: Float32Array; // [K, P]
  memberOf: Int32Array; // [windows]
  above: Bank;
}

/** Everything that a resumed run needs. */
export interface TrainerState {
  step: number;
  parameters: Parameters;
  moments: Map<ParameterName, Moments>;
}

const clustersPerStep = 5;
const windowsPerCluster = 4;
/** Drawn anew in each step. Neighbouring tokens are alike, so few tokens of many windows teach more than all tokens of few. */
const tokensPerWindow = 24;
const warmUpSteps = 20;
export const adamWDefaults: Omit<AdamWOptions, "weightDecay"> = { beta1: 0.9, beta2: 0.98, epsilon: 1e-8 };

/** A window drawn for a step: its tokens, and the input [P] of the hyper-network; null of a static adapter. */
interface DrawnWindow extends WindowPart {
  embedding: Float32Array | null;
}

export class Trainer {
  readonly state: TrainerState;
  readonly #options: TrainerOptions;
  readonly #text: TrainingText;
  readonly #clusters: TrainingClusters | null;
  readonly #members: number[][];
  readonly #session: Session;
  readonly #feeds: Record<string, Tensor> = {};

  private constructor(
    session: Session,
    text: TrainingText,
    shape: BankShape,
    clusters: TrainingClusters | null,
    options: TrainerOptions,
    state: TrainerState,
  ) {
    this.#session = session;
    this.#text = text;
    this.#clusters = clusters;
    this.#options = options;
    this.state = state;
    this.#members = clusters ? membersOf(clusters) : [];
    for (const [name, values] of state.parameters) {
      this.#feeds[name] = tensor(values, shapeOf(name, shape, text.head.hiddenSize));
    }
  }

  /**
   * `clusters`: null trains a static adapter, else the hyper-network. `resumed`: the state of an interrupted run; null starts a
   * new one.
   */
  static async open(
    text: TrainingText,
    shape: BankShape,
    clusters: TrainingClusters | null,
    options: TrainerOptions,
    resumed: TrainerState | null,
  ): Promise<Trainer> {
    const { head } = text;
    const graph = buildTrainingGraph(head, { shape, above: clusters?.above ?? null });
    const session = await openSession(graph, { threads: options.threads });
    return new Trainer(session, text, shape, clusters, options, resumed ?? initialState(head, shape, options.seed));
  }

  /** One optimiser step; returns the mean loss of its tokens, in nats, before the update. */
  async step(): Promise<number> {
    const { seed, steps, learningRate, weightDecay } = this.#options;
    const state = this.state;
    const step = state.step + 1;
    const drawn = this.#draw(new Random(seed, streams.firstStep + step));
    const { loss, gradients } = await this.#lossAndGradients(drawn);
    const rate = learningRateAt(step, steps, learningRate, warmUpSteps);
    for (const [name, parameter] of state.parameters) {
      const moments = state.moments.get(name)!;
      adamWStep(parameter, gradients.get(name)!, moments, step, rate, { ...adamWDefaults, weightDecay });
    }
    state.step = step;
    return loss;
  }

  release(): Promise<void> {
    return this.#session.release();
  }

  /** As many windows of each of some clusters, between their centroid and themselves; of a static adapter any windows. */
  #draw(random: Random): DrawnWindow[] {
    const { windows } = this.#text.set;
    const part = (index: number, embedding: Float32Array | null): DrawnWindow => {
      const tokens = random.subset(scoredTokens(windows[index]), tokensPerWindow);
      return { index, tokens, embedding };
    };
    if (!this.#clusters) {
      return Array.from({ length: clustersPerStep * windowsPerCluster }, () =>
        part(random.integer(windows.length), null),
      );
    }
    const { embeddings, centroids, memberOf } = this.#clusters;
    const P = embeddings.length / windows.length;
    return random
      .shuffled(this.#members)
      .slice(0, clustersPerStep)
      .flatMap((members) => {
        const indexes = Array.from({ length: windowsPerCluster }, () => members[random.integer(members.length)]);
        const k = memberOf[indexes[0]];
        const centroid = centroids.subarray(k * P, (k + 1) * P);
        const inputs = indexes.map((i) => between(centroid, embeddings.subarray(i * P, (i + 1) * P), random.uniform()));
        return indexes.map((index, i) => part(index, inputs[i]));
      });
  }

  async #lossAndGradients(drawn: readonly DrawnWindow[]) {
    const { head, set } = this.#text;
    const { hiddenSize: D, vocabularySize: V } = head;
    const tokens = drawn.reduce((sum, window) => sum + window.tokens.length, 0);
    const gradients = new Map<ParameterName, Float32Array>();
    let loss = 0;
    for (const windows of runsOf(drawn, (window) => window.tokens.length, V)) {
      const batch = await gatherBatch(set, windows, D);
      const results = await this.#session.run({
        ...this.#feeds,
        ...(this.#clusters && placed(windows, batch)),
        targets: tensor(batch.targets, [batch.targets.length]),
        hidden: tensor(batch.hidden, [batch.targets.length, D]),
        weight: tensor(Float32Array.of(1 / tokens), []),
      });
      for (const nll of results.nll.data as Float32Array) loss += nll / tokens;
      for (const name of this.state.parameters.keys()) {
        const gradient = results[`d_${name}`].data as Float32Array;
        const sum = gradients.get(name);
        if (!sum) gradients.set(name, gradient);
        else for (let j = 0; j < sum.length; j++) sum[j] += gradient[j];
      }
    }
    return { loss, gradients };
  }
}

/** Inputs of the hyper-network, one under the other, and which of them each token has. */
function placed(windows: readonly DrawnWindow[], { windowOf }: Batch) {
  const P = windows[0].embedding!.length;
  const embeddings = new Float32Array(windows.length * P);
  for (const [s, { embedding }] of windows.entries()) embeddings.set(embedding!, s * P);
  return {
    embeddings: tensor(embeddings, [windows.length, P]),
    window_of: tensor(windowOf, [windowOf.length]),
  };
}

function initialState({ hiddenSize }: HeadWeights, shape: BankShape, seed: number): TrainerState {
  const parameters = initialParameters(shape, hiddenSize, seed);
  const moments = new Map<ParameterName, Moments>();
  for (const [name, { length }] of parameters) {
    moments.set(name, { first: new Float32Array(length), second: new Float32Array(length) });
  }
  return { step: 0, parameters, moments };
}

/** Window indexes of each cluster that has any. */
function membersOf({ memberOf }: TrainingClusters): number[][] {
  const members = Map.groupBy(memberOf.keys(), (index) => memberOf[index]);
  return [...members].sort(([j], [k]) => j - k).map(([, indexes]) => indexes);
}

/** normalise(centroid + share · member) */
function between(centroid: Float32Array, member: Float32Array, share: number): Float32Array {
  const sum = centroid.map((x, p) => x + share * member[p]);
  const length = Math.hypot(...sum);
  return length > 0 ? sum.map((x) => x / length) : sum;
}
