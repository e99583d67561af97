/**
 * Trains bank and hyper-network over cached hidden states, step by step. Every draw of a step depends on seed and step
 * number alone, so parameters, moments and the step number are the whole state: a resumed run equals an unbroken one.
 */
import { openSession, type Session, type Tensor, tensor } from "../../runtime/session.ts";
import { Random } from "../random.ts";
import { streams } from "../streams.ts";
import { type AdamWOptions, adamWStep, learningRateAt, type Moments } from "./adamw.ts";
import { gatherBatch, runsOf, type WindowSet } from "./batches.ts";
import { type BankShape, initialParameters, type ParameterName, type Parameters, shapeOf } from "./parameters.ts";
import { buildTrainingGraph, type HeadWeights } from "./training-graph.ts";

export interface TrainerOptions {
  seed: number;
  steps: number;
  learningRate: number;
  /** false: a static adapter, the same for every window. */
  gated: boolean;
  threads: number;
}

/** Clusters of the training windows. */
export interface TrainingClusters {
  centroids: Float32Array; // [K, P]
  memberOf: Int32Array; // [windows]
}

/** Everything that a run needs to go on. */
export interface TrainerState {
  step: number;
  parameters: Parameters;
  moments: Map<ParameterName, Moments>;
}

const clustersPerStep = 3;
const windowsPerCluster = 5;
const warmUpSteps = 20;
const adamW: AdamWOptions = { beta1: 0.9, beta2: 0.98, epsilon: 1e-8, weightDecay: 0 };

export class Trainer {
  readonly state: TrainerState;
  readonly #options: TrainerOptions;
  readonly #shape: BankShape;
  readonly #head: HeadWeights;
  readonly #set: WindowSet;
  readonly #clusters: TrainingClusters;
  readonly #members: number[][];
  readonly #session: Session;
  readonly #feeds: Record<string, Tensor> = {};

  private constructor(
    session: Session,
    head: HeadWeights,
    shape: BankShape,
    set: WindowSet,
    clusters: TrainingClusters,
    options: TrainerOptions,
    state: TrainerState,
  ) {
    this.#session = session;
    this.#head = head;
    this.#shape = shape;
    this.#set = set;
    this.#clusters = clusters;
    this.#options = options;
    this.state = state;
    this.#members = membersOf(clusters);
    for (const [name, values] of state.parameters) {
      this.#feeds[name] = tensor(values, shapeOf(name, shape, head.hiddenSize, head.vocabularySize));
    }
  }

  /** `resumed`: the state of an interrupted run; without it training starts anew. */
  static async open(
    head: HeadWeights,
    shape: BankShape,
    set: WindowSet,
    clusters: TrainingClusters,
    options: TrainerOptions,
    resumed: TrainerState | null,
  ): Promise<Trainer> {
    const session = await openSession(buildTrainingGraph(head, shape, options.gated), { threads: options.threads });
    const state = resumed ?? startOf(head, shape, options);
    return new Trainer(session, head, shape, set, clusters, options, state);
  }

  get steps(): number {
    return this.#options.steps;
  }

  /** One optimiser step; returns the mean loss of its tokens, in nats, before the update. */
  async step(): Promise<number> {
    const options = this.#options;
    const state = this.state;
    const step = state.step + 1;
    const drawn = this.#draw(new Random(options.seed, streams.firstStep + step));
    const { loss, gradients } = await this.#lossAndGradients(drawn);
    const learningRate = learningRateAt(step, options.steps, options.learningRate, warmUpSteps);
    for (const [name, parameter] of state.parameters) {
      adamWStep(parameter, gradients.get(name)!, state.moments.get(name)!, step, learningRate, adamW);
    }
    state.step = step;
    return loss;
  }

  release(): Promise<void> {
    return this.#session.release();
  }

  /** Some clusters, some windows of each, and for each window a point on the way from centroid to window. */
  #draw(random: Random): DrawnWindow[] {
    const P = this.#shape.dimensions;
    const { centroids } = this.#clusters;
    return random
      .shuffled(this.#members)
      .slice(0, clustersPerStep)
      .flatMap((members) =>
        Array.from({ length: windowsPerCluster }, () => {
          const index = members[random.integer(members.length)];
          const k = this.#clusters.memberOf[index];
          const centroid = centroids.subarray(k * P, (k + 1) * P);
          const member = this.#set.embeddings.subarray(index * P, (index + 1) * P);
          return { index, embedding: between(centroid, member, random.uniform()) };
        }),
      );
  }

  async #lossAndGradients(drawn: readonly DrawnWindow[]) {
    const { hiddenSize: D, vocabularySize: V } = this.#head;
    const P = this.#shape.dimensions;
    const embeddingOf = new Map(drawn.map(({ index, embedding }) => [index, embedding]));
    const runs = runsOf(this.#set, [...embeddingOf.keys()], V);
    const batches = await Promise.all(runs.map((run) => gatherBatch(this.#set, run, D)));
    const tokens = batches.reduce((sum, batch) => sum + batch.targets.length, 0);
    const gradients = new Map<ParameterName, Float32Array>();
    let loss = 0;
    for (const [i, { hidden, targets, windowOf }] of batches.entries()) {
      const feeds: Record<string, Tensor> = {
        ...this.#feeds,
        hidden: tensor(hidden, [targets.length, D]),
        targets: tensor(targets, [targets.length]),
        weight: tensor(Float32Array.of(1 / tokens), []),
      };
      if (this.#options.gated) {
        const embeddings = new Float32Array(runs[i].length * P);
        for (const [s, index] of runs[i].entries()) embeddings.set(embeddingOf.get(index)!, s * P);
        feeds.embeddings = tensor(embeddings, [runs[i].length, P]);
        feeds.window_of = tensor(windowOf, [windowOf.length]);
      }
      const results = await this.#session.run(feeds);
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

interface DrawnWindow {
  /** In the window set. */
  index: number;
  embedding: Float32Array; // [P]
}

function startOf(head: HeadWeights, shape: BankShape, options: TrainerOptions): TrainerState {
  const parameters = initialParameters(shape, head.hiddenSize, head.vocabularySize, options.seed, options.gated);
  const moments = new Map<ParameterName, Moments>();
  for (const [name, { length }] of parameters) {
    moments.set(name, { first: new Float32Array(length), second: new Float32Array(length) });
  }
  return { step: 0, parameters, moments };
}

/** Window indexes of each cluster that has any. */
function membersOf({ memberOf }: TrainingClusters): number[][] {
  const members = new Map<number, number[]>();
  for (const [index, k] of memberOf.entries()) {
    const list = members.get(k);
    if (list) list.push(index);
    else members.set(k, [index]);
  }
  return [...members].sort(([j], [k]) => j - k).map(([, list]) => list);
}

/** normalise(centroid + share · member) */
function between(centroid: Float32Array, member: Float32Array, share: number): Float32Array {
  const sum = centroid.map((x, p) => x + share * member[p]);
  const length = Math.hypot(...sum);
  return length > 0 ? sum.map((x) => x / length) : sum;
}
