/**
 * Trains adapters of any kind over cached hidden states, step by step. Every draw of a step depends on seed and step
 * number alone, so parameters, moments and the step number are the whole state: a resumed run equals an unbroken one.
 */
import { openSession, type Session, type Tensor, tensor } from "../../runtime/session.ts";
import { scoredTokens } from "../corpus/windows.ts";
import { Random } from "../random.ts";
import { streams } from "../streams.ts";
import { type AdamWOptions, adamWStep, learningRateAt, type Moments } from "./adamw.ts";
import { gatherBatch, type PlacedSet, runsOf, type WindowPart } from "./batches.ts";
import type { DrawnWindow, Kind } from "./kind.ts";
import type { ParameterName, Parameters } from "./parameters.ts";

export interface TrainerOptions {
  seed: number;
  steps: number;
  learningRate: number;
  input: InputSource;
  threads: number;
  /** Of AdamW; absent: 0. */
  weightDecay?: number;
  /** Whether a step draws clusters and then windows of each, or windows alone; absent: clusters. */
  draws?: "clusters" | "windows";
}

/**
 * What the hyper-network is given for a window in training: a point on the way from its centroid to itself, its centroid,
 * the mean of the windows drawn with it (as published), or the same for all text (a control). With the first, which is what is
 * served, a step also takes `windowsAtOrigin`.
 */
export type InputSource = "jittered" | "centroid" | "batch-mean" | "constant";

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

const clustersPerStep = 6;
const windowsPerCluster = 5;
/**
 * Windows of all text that a step also takes, with the origin of the prompt space (the mean of all text) as their input. Gates are
 * nearly linear in their input, so what is learned at the origin becomes part of every adapter. Otherwise an adapter gains on text
 * of its own centroid and little on text that is far from all centroids (LOG.md).
 */
const windowsAtOrigin = 60;
/**
 * Tokens that a step takes of a window, drawn anew each time. Neighbours say much the same: few tokens of many windows teach
 * more than all tokens of few.
 */
const tokensPerWindow = 48;
/** Of a step of what is served, where no window is shorter. */
export const tokensPerStep = (clustersPerStep * windowsPerCluster + windowsAtOrigin) * tokensPerWindow;
const warmUpSteps = 20;
/** Keeps the steps of neighbouring seeds apart; no run is that long. */
const stepSeedStride = 1_000_003;
export const adamWDefaults: AdamWOptions = { beta1: 0.9, beta2: 0.98, epsilon: 1e-8, weightDecay: 0 };

export class Trainer {
  readonly state: TrainerState;
  readonly #options: TrainerOptions;
  readonly #kind: Kind;
  readonly #set: PlacedSet;
  readonly #clusters: TrainingClusters;
  readonly #members: number[][];
  readonly #adamW: AdamWOptions;
  readonly #session: Session;
  readonly #feeds: Record<string, Tensor> = {};

  private constructor(
    session: Session,
    kind: Kind,
    set: PlacedSet,
    clusters: TrainingClusters,
    options: TrainerOptions,
    state: TrainerState,
  ) {
    this.#session = session;
    this.#kind = kind;
    this.#set = set;
    this.#clusters = clusters;
    this.#options = options;
    this.state = state;
    this.#members = membersOf(clusters);
    this.#adamW = { ...adamWDefaults, weightDecay: options.weightDecay ?? 0 };
    for (const [name, values] of state.parameters) this.#feeds[name] = tensor(values, kind.shapeOf(name));
  }

  /** `resumed`: the state of an interrupted run; without it training starts anew. */
  static async open(
    kind: Kind,
    set: PlacedSet,
    clusters: TrainingClusters,
    options: TrainerOptions,
    resumed: TrainerState | null,
  ): Promise<Trainer> {
    const session = await openSession(kind.graph(), { threads: options.threads });
    const state = resumed ?? startOf(kind, options.seed);
    return new Trainer(session, kind, set, clusters, options, state);
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
      adamWStep(parameter, gradients.get(name)!, state.moments.get(name)!, step, learningRate, this.#adamW);
    }
    state.step = step;
    return loss;
  }

  release(): Promise<void> {
    return this.#session.release();
  }

  /** The windows of a step. */
  #draw(random: Random): (DrawnWindow & WindowPart)[] {
    const drawn = this.#drawClusters(random);
    return this.#options.input === "jittered" ? [...drawn, ...this.#drawAtOrigin(random)] : drawn;
  }

  #drawAtOrigin(random: Random): (DrawnWindow & WindowPart)[] {
    const { embeddings, windows } = this.#set;
    const origin = new Float32Array(embeddings.length / windows.length);
    return Array.from({ length: windowsAtOrigin }, (_, i) =>
      this.#windowOf(random.integer(windows.length), clustersPerStep + i, origin, random),
    );
  }

  /** Some clusters, and some windows of each. */
  #drawClusters(random: Random): (DrawnWindow & WindowPart)[] {
    const all = [...this.#set.windows.keys()];
    const groups =
      this.#options.draws === "windows"
        ? random
            .shuffled(all)
            .slice(0, clustersPerStep * windowsPerCluster)
            .map((index) => [index])
        : random.shuffled(this.#members).slice(0, clustersPerStep);
    return groups.flatMap((members, batch) => {
      const draws = this.#options.draws === "windows" ? 1 : windowsPerCluster;
      const indexes = Array.from({ length: draws }, () => members[random.integer(members.length)]);
      const inputs = this.#inputs(indexes, random);
      return indexes.map((index, i) => this.#windowOf(index, batch, inputs[i], random));
    });
  }

  #windowOf(index: number, batch: number, embedding: Float32Array, random: Random): DrawnWindow & WindowPart {
    const tokens = random.subset(scoredTokens(this.#set.windows[index]), tokensPerWindow);
    return { index, tokens, cluster: this.#clusters.memberOf[index], batch, embedding };
  }

  /** Inputs of windows of one cluster that were drawn together, [P] each. */
  #inputs(indexes: readonly number[], random: Random): Float32Array[] {
    const { embeddings, windows } = this.#set;
    const P = embeddings.length / windows.length;
    const k = this.#clusters.memberOf[indexes[0]];
    const centroid = this.#clusters.centroids.subarray(k * P, (k + 1) * P);
    const members = indexes.map((index) => embeddings.subarray(index * P, (index + 1) * P));
    switch (this.#options.input) {
      case "jittered":
        return members.map((member) => between(centroid, member, random.uniform()));
      case "centroid":
        return members.map(() => centroid);
      case "batch-mean": {
        const mean = meanDirection(members);
        return members.map(() => mean);
      }
      case "constant": {
        const constant = constantInput(P);
        return members.map(() => constant);
      }
    }
  }

  async #lossAndGradients(drawn: readonly (DrawnWindow & WindowPart)[]) {
    const { hiddenSize: D, vocabularySize: V } = this.#kind.head;
    const tokens = drawn.reduce((sum, window) => sum + window.tokens.length, 0);
    const gradients = new Map<ParameterName, Float32Array>();
    let loss = 0;
    for (const windows of runsOf(drawn, (window) => window.tokens.length, V)) {
      const { hidden, targets, windowOf } = await gatherBatch(this.#set, windows, D);
      const results = await this.#session.run({
        ...this.#feeds,
        ...this.#kind.feeds({ windows, windowOf, stepSeed: this.#options.seed * stepSeedStride + this.state.step }),
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

function startOf(kind: Kind, seed: number): TrainerState {
  const parameters = kind.initial(seed);
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
  return unit(centroid.map((x, p) => x + share * member[p]));
}

/** Direction of the mean of some vectors. */
export function meanDirection(vectors: readonly Float32Array[]): Float32Array {
  const sum = new Float32Array(vectors[0].length);
  for (const vector of vectors) for (let p = 0; p < sum.length; p++) sum[p] += vector[p];
  return unit(sum);
}

/** The input of a hyper-network that is to know nothing of its text, [P]. */
export function constantInput(P: number): Float32Array {
  return new Float32Array(P).fill(1 / Math.sqrt(P));
}

function unit(vector: Float32Array): Float32Array {
  const length = Math.hypot(...vector);
  return length > 0 ? vector.map((x) => x / length) : vector;
}
