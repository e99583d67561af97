/**
 * Trains bank and hyper-network on cached hidden states, step by step. Every draw of a step depends on seed and step
 * number alone, so parameters, moments and the step number are the whole state: a resumed run equals an unbroken one.
 */
import { openSession, type Session, type Tensor, tensor } from "../../runtime/session.ts";
import { scoredTokens } from "../corpus/windows.ts";
import { Random, streams } from "../random.ts";
import { type AdamWOptions, adamWStep, learningRateAt, type Moments } from "./adamw.ts";
import { gatherBatch, type PlacedSet, runsOf, type WindowPart } from "./batches.ts";
import { type BankShape, initialParameters, type ParameterName, type Parameters, shapeOf } from "./parameters.ts";
import { buildTrainingGraph, type HeadWeights } from "./training-graph.ts";

export interface TrainerOptions {
  seed: number;
  steps: number;
  learningRate: number;
  threads: number;
}

/** Clusters of the training windows. */
export interface TrainingClusters {
  centroids: Float32Array; // [K, P]
  memberOf: Int32Array; // [windows]
}

/** Everything that a resumed run needs. */
export interface TrainerState {
  step: number;
  parameters: Parameters;
  moments: Map<ParameterName, Moments>;
}

const clustersPerStep = 6;
const windowsPerCluster = 5;
/**
 * Further windows of a step, of any cluster, whose input is the origin of the prompt space (the mean of all text). Gates are nearly
 * linear in their input, so every adapter includes what is learned there, and gains on text far from all centroids, too.
 */
const windowsAtOrigin = 60;
/** Drawn anew in each step. Neighbouring tokens are alike, so few tokens of many windows teach more than all tokens of few. */
const tokensPerWindow = 48;
/** If no window is shorter than `tokensPerWindow`. */
export const tokensPerStep = (clustersPerStep * windowsPerCluster + windowsAtOrigin) * tokensPerWindow;
const warmUpSteps = 20;
export const adamWDefaults: AdamWOptions = { beta1: 0.9, beta2: 0.98, epsilon: 1e-8, weightDecay: 0 };

/** A window drawn for a step: its tokens, and the input [P] of the hyper-network. */
interface DrawnWindow extends WindowPart {
  embedding: Float32Array;
}

export class Trainer {
  readonly state: TrainerState;
  readonly #options: TrainerOptions;
  readonly #head: HeadWeights;
  readonly #set: PlacedSet;
  readonly #clusters: TrainingClusters;
  readonly #members: number[][];
  readonly #session: Session;
  readonly #feeds: Record<string, Tensor> = {};

  private constructor(
    session: Session,
    head: HeadWeights,
    shape: BankShape,
    set: PlacedSet,
    clusters: TrainingClusters,
    options: TrainerOptions,
    state: TrainerState,
  ) {
    this.#session = session;
    this.#head = head;
    this.#set = set;
    this.#clusters = clusters;
    this.#options = options;
    this.state = state;
    this.#members = membersOf(clusters);
    const { hiddenSize: D, vocabularySize: V } = head;
    for (const [name, values] of state.parameters) this.#feeds[name] = tensor(values, shapeOf(name, shape, D, V));
  }

  /** `resumed`: the state of an interrupted run; null starts a new one. */
  static async open(
    head: HeadWeights,
    shape: BankShape,
    set: PlacedSet,
    clusters: TrainingClusters,
    options: TrainerOptions,
    resumed: TrainerState | null,
  ): Promise<Trainer> {
    const session = await openSession(buildTrainingGraph(head, shape), { threads: options.threads });
    const state = resumed ?? initialState(head, shape, options.seed);
    return new Trainer(session, head, shape, set, clusters, options, state);
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
      adamWStep(parameter, gradients.get(name)!, state.moments.get(name)!, step, learningRate, adamWDefaults);
    }
    state.step = step;
    return loss;
  }

  release(): Promise<void> {
    return this.#session.release();
  }

  /** Windows of some clusters with their jittered centroids as input, and windows of any cluster with the origin as input. */
  #draw(random: Random): DrawnWindow[] {
    const { embeddings, windows } = this.#set;
    const { centroids, memberOf } = this.#clusters;
    const P = embeddings.length / windows.length;
    const part = (index: number, embedding: Float32Array): DrawnWindow => {
      const tokens = random.subset(scoredTokens(windows[index]), tokensPerWindow);
      return { index, tokens, embedding };
    };
    const ofClusters = random
      .shuffled(this.#members)
      .slice(0, clustersPerStep)
      .flatMap((members) => {
        const indexes = Array.from({ length: windowsPerCluster }, () => members[random.integer(members.length)]);
        const k = memberOf[indexes[0]];
        const centroid = centroids.subarray(k * P, (k + 1) * P);
        const inputs = indexes.map((i) => between(centroid, embeddings.subarray(i * P, (i + 1) * P), random.uniform()));
        return indexes.map((index, i) => part(index, inputs[i]));
      });
    const origin = new Float32Array(P);
    const atOrigin = Array.from({ length: windowsAtOrigin }, () => part(random.integer(windows.length), origin));
    return [...ofClusters, ...atOrigin];
  }

  async #lossAndGradients(drawn: readonly DrawnWindow[]) {
    const { hiddenSize: D, vocabularySize: V } = this.#head;
    const tokens = drawn.reduce((sum, window) => sum + window.tokens.length, 0);
    const gradients = new Map<ParameterName, Float32Array>();
    let loss = 0;
    for (const windows of runsOf(drawn, (window) => window.tokens.length, V)) {
      const { hidden, targets, windowOf } = await gatherBatch(this.#set, windows, D);
      const results = await this.#session.run({
        ...this.#feeds,
        embeddings: tensor(embeddingsOf(windows), [windows.length, windows[0].embedding.length]),
        window_of: tensor(windowOf, [windowOf.length]),
        hidden: tensor(hidden, [targets.length, D]),
        targets: tensor(targets, [targets.length]),
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

function initialState({ hiddenSize, vocabularySize }: HeadWeights, shape: BankShape, seed: number): TrainerState {
  const parameters = initialParameters(shape, hiddenSize, vocabularySize, seed);
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

/** The windows' inputs one under the other, [S, P]. */
function embeddingsOf(windows: readonly DrawnWindow[]): Float32Array {
  const P = windows[0].embedding.length;
  const all = new Float32Array(windows.length * P);
  for (const [s, { embedding }] of windows.entries()) all.set(embedding, s * P);
  return all;
}

/** normalise(centroid + share · member) */
function between(centroid: Float32Array, member: Float32Array, share: number): Float32Array {
  const sum = centroid.map((x, p) => x + share * member[p]);
  const length = Math.hypot(...sum);
  return length > 0 ? sum.map((x) => x / length) : sum;
}
