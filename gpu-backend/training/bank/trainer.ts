/**
 * Trains a static adapter, or a hyper-network whose adapters are added to one, on cached hidden states. Every draw of a step depends on
 * seed and step number alone, so parameters, moments and the step number are the whole state: a resumed run equals an unbroken one.
 */
import { type AdamWOptions, adamWStep, learningRateAt, type Moments } from "../../../shared/math/adamw.ts";
import { openSession, tensor } from "../../runtime/session.ts";
import type { Bank } from "../../runtime/step.ts";
import { scoredTokens, targetsOf, type Window } from "../corpus/windows.ts";
import type { PlacedSet, WindowSet } from "../hidden-states.ts";
import { Random, streams } from "../random.ts";
import { networkPass } from "./network-pass.ts";
import { type BankShape, initialParameters, type ParameterName, type Parameters } from "./parameters.ts";
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

export interface Trainer {
  readonly state: TrainerState;
  /** One optimiser step; returns the mean loss of its tokens, in nats, before the update. */
  step(): Promise<number>;
  release(): Promise<void>;
}

const clustersPerStep = 5;
const windowsPerCluster = 4;
/** Drawn anew in each step. Neighbouring tokens are alike, so few tokens of many windows teach more than all tokens of few. */
const tokensPerWindow = 24;
const warmUpSteps = 20;
export const adamWDefaults: Omit<AdamWOptions, "weightDecay"> = { beta1: 0.9, beta2: 0.98, epsilon: 1e-8 };
/** Logits of one run, in numbers: keeps a run's memory near 32 MB whatever the vocabulary. */
const maxLogits = 8_000_000;

/** A window drawn for a step. */
interface DrawnWindow {
  window: Window;
  /** Which of its scored tokens are learnt from, rising. */
  tokens: Int32Array;
  /** The input [P] of the hyper-network; empty for a static adapter. */
  input: Float32Array;
}

/**
 * `clusters`: null trains a static adapter, else the hyper-network. `resumed`: the state of an interrupted run; null starts a new
 * one.
 */
export async function openTrainer(
  { head, set }: TrainingText,
  shape: BankShape,
  clusters: TrainingClusters | null,
  { seed, steps, learningRate, weightDecay, threads }: TrainerOptions,
  resumed: TrainerState | null,
): Promise<Trainer> {
  const { hiddenSize: D, vocabularySize: V } = head;
  const Q = shape.gates;
  const graph = buildTrainingGraph(head, shape.a0, clusters?.above ?? null);
  const session = await openSession(graph, { threads });
  const state = resumed ?? initialState(shape, D, seed);
  const { parameters, moments } = state;
  const [a, b] = (["a", "b"] as const).map((name) => tensor(parameters.get(name)!, [Q, D]));
  const perRun = Math.max(1, Math.floor(maxLogits / V / tokensPerWindow));

  /** Adds the gradients of one run, of the windows from `from` on, to `sums`; returns the sum of the losses. `gates` [windows, Q] */
  async function addGradients(
    drawn: readonly DrawnWindow[],
    from: number,
    gates: Float32Array,
    weight: number,
    sums: Record<"a" | "b" | "gates", Float32Array>,
  ): Promise<number> {
    const windows = drawn.slice(from, from + perRun);
    const N = windows.reduce((sum, { tokens }) => sum + tokens.length, 0);
    const [hidden, targets, ofRows] = [new Float32Array(N * D), new Int32Array(N), new Float32Array(N * Q)];
    const windowOf: number[] = [];
    for (const [s, { window, tokens }] of windows.entries()) {
      const states = set.statesOf(window);
      const ids = targetsOf(window);
      for (const token of tokens) {
        const row = windowOf.push(from + s) - 1;
        hidden.set(states.subarray(token * D, (token + 1) * D), row * D);
        targets[row] = ids[token];
        ofRows.set(gates.subarray((from + s) * Q, (from + s + 1) * Q), row * Q);
      }
    }
    const results = await session.run({
      ...{ a, b, hidden: tensor(hidden, [N, D]), targets: tensor(targets, [N, 1]), gates: tensor(ofRows, [N, Q]) },
      weight: tensor(Float32Array.of(weight), []),
    });
    const of = (name: string) => results[name].data as Float32Array;
    for (const name of ["a", "b"] as const) {
      const gradient = of(`d_${name}`);
      for (let i = 0; i < gradient.length; i++) sums[name][i] += gradient[i];
    }
    for (const [i, x] of of("d_gates").entries()) sums.gates[windowOf[Math.floor(i / Q)] * Q + (i % Q)] += x;
    return of("nll").reduce((sum, nll) => sum + nll, 0);
  }

  async function step(): Promise<number> {
    const next = state.step + 1;
    const random = new Random(seed, streams.firstStep + next);
    const drawn = clusters ? drawOfClusters(set.windows, clusters, random) : drawOf(set.windows, random);
    const tokens = drawn.reduce((sum, window) => sum + window.tokens.length, 0);
    const inputs = drawn.map(({ input }) => input);
    const network = clusters && networkPass(shape, parameters, inputs);
    const gates = network?.gates ?? new Float32Array(drawn.length * Q).fill(1);
    const zeros = (length: number) => new Float32Array(length);
    const sums = { a: zeros(Q * D), b: zeros(Q * D), gates: zeros(gates.length) };
    let loss = 0;
    for (let from = 0; from < drawn.length; from += perRun) {
      loss += await addGradients(drawn, from, gates, 1 / tokens, sums);
    }
    const gradients = new Map<ParameterName, Float32Array>([
      ...(network?.backward(sums.gates) ?? []),
      ...[["a", sums.a] as const, ["b", sums.b] as const],
    ]);
    const rate = learningRateAt(next, steps, learningRate, warmUpSteps);
    for (const [name, parameter] of parameters) {
      adamWStep(parameter, gradients.get(name)!, moments.get(name)!, next, rate, { ...adamWDefaults, weightDecay });
    }
    state.step = next;
    return loss / tokens;
  }
  return { state, step, release: () => session.release() };
}

function drawTokens(window: Window, random: Random): Int32Array {
  return random.subset(scoredTokens(window), tokensPerWindow);
}

/** Any windows, for a static adapter. */
function drawOf(windows: readonly Window[], random: Random): DrawnWindow[] {
  return Array.from({ length: clustersPerStep * windowsPerCluster }, () => {
    const window = windows[random.integer(windows.length)];
    return { window, tokens: drawTokens(window, random), input: new Float32Array(0) };
  });
}

/** As many windows of each of some clusters, between their centroid and themselves. */
function drawOfClusters(
  windows: readonly Window[],
  { embeddings, centroids, memberOf }: TrainingClusters,
  random: Random,
): DrawnWindow[] {
  const P = embeddings.length / windows.length;
  const members = [...Map.groupBy(memberOf.keys(), (index) => memberOf[index])].sort(([j], [k]) => j - k);
  return random
    .shuffled(members)
    .slice(0, clustersPerStep)
    .flatMap(([k, ofCluster]) => {
      const indexes = Array.from({ length: windowsPerCluster }, () => ofCluster[random.integer(ofCluster.length)]);
      const centroid = centroids.subarray(k * P, (k + 1) * P);
      const inputs = indexes.map((i) => between(centroid, embeddings.subarray(i * P, (i + 1) * P), random.uniform()));
      return indexes.map((index, i) => {
        const window = windows[index];
        return { window, tokens: drawTokens(window, random), input: inputs[i] };
      });
    });
}

function initialState(shape: BankShape, hiddenSize: number, seed: number): TrainerState {
  const parameters = initialParameters(shape, hiddenSize, seed);
  const moments = new Map<ParameterName, Moments>();
  for (const [name, { length }] of parameters) {
    moments.set(name, { first: new Float32Array(length), second: new Float32Array(length) });
  }
  return { step: 0, parameters, moments };
}

/** normalise(centroid + share · member) */
function between(centroid: Float32Array, member: Float32Array, share: number): Float32Array {
  const sum = centroid.map((x, p) => x + share * member[p]);
  const length = Math.hypot(...sum);
  return length > 0 ? sum.map((x) => x / length) : sum;
}
