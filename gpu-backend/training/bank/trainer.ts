/** Trains a static adapter or a hyper-network on cached hidden states. Draws depend on seed and step, so runs can resume. */
import { adamWStep, learningRateAt } from "../../../shared/math/adamw.ts";
import { openSession, tensor } from "../../runtime/session.ts";
import type { Bank } from "../../runtime/step.ts";
import { unitVector } from "../clustering/k-means.ts";
import { scoredTokens, targetsOf, type Window } from "../corpus/windows.ts";
import type { PlacedSet, WindowSet } from "../hidden-states.ts";
import { Random, streams } from "../random.ts";
import { type Activation, layersOf, networkPass } from "./network-pass.ts";
import { type BankShape, initialParameters, type Parameters, zerosLike } from "./parameters.ts";
import type { BankSettings } from "./settings.ts";
import { buildTrainingGraph, type HeadWeights } from "./training-graph.ts";

type TrainerOptions = Pick<BankSettings, "seed" | "steps" | "learningRate" | "weightDecay"> & { threads: number };

export interface TrainingText {
  head: HeadWeights;
  set: WindowSet;
}

export interface TrainingClusters {
  /** Prompt embeddings of the windows, [windows, P]. */
  embeddings: PlacedSet["embeddings"];
  centroids: Float32Array; // [K, P]
  memberOf: Int32Array;
  above: Bank;
}

export interface TrainerState {
  step: number;
  parameters: Parameters;
  first: Parameters;
  second: Parameters;
}

const clustersPerStep = 5;
const windowsPerCluster = 4;
/** Neighbouring tokens are alike, so a few tokens of many windows teach more than all tokens of few windows. */
const tokensPerWindow = 24;
const warmUpSteps = 20;
/** Number of logits in one run, at 32 MB. */
const maxLogits = 8_000_000;

interface DrawnWindow {
  window: Window;
  /** Indexes among the window's scored tokens, ascending. */
  tokens: Int32Array;
  /** Input of the hyper-network, [P]; empty for a static adapter. */
  input: Float32Array;
}

/** `clusters` is null for a static adapter. `resumed` is the state of an interrupted run. */
export async function openTrainer(
  { head, set }: TrainingText,
  shape: BankShape,
  clusters: TrainingClusters | null,
  { seed, steps, learningRate, weightDecay, threads }: TrainerOptions,
  resumed: TrainerState | null,
) {
  const { hiddenSize: D, vocabularySize: V } = head;
  const Q = shape.gates;
  const graph = buildTrainingGraph(head, shape.a0, clusters?.above ?? null);
  const session = await openSession(graph, { threads });
  const state = resumed ?? initialState(shape, D, seed);
  const { parameters, first, second } = state;
  const [a, b] = (["a", "b"] as const).map((name) => tensor(parameters.get(name)!, [Q, D]));
  const rowsPerRun = Math.max(1, Math.floor(maxLogits / V));

  /** Adds to `gradients` and `dGates` [windows, Q]. `gates` are [windows, Q]. Returns the mean loss in nats a token. */
  async function runHead(
    drawn: readonly DrawnWindow[],
    gates: Float32Array,
    dGates: Float32Array,
    gradients: Parameters,
  ) {
    const windowOf = drawn.flatMap(({ tokens }, s) => Array.from(tokens, () => s));
    const N = windowOf.length;
    const [hidden, targets, ofRows] = [new Float32Array(N * D), new Int32Array(N), new Float32Array(N * Q)];
    let row = 0;
    for (const [s, { window, tokens }] of drawn.entries()) {
      const states = set.statesOf(window);
      const ids = targetsOf(window);
      for (const token of tokens) {
        hidden.set(states.subarray(token * D, (token + 1) * D), row * D);
        ofRows.set(gates.subarray(s * Q, (s + 1) * Q), row * Q);
        targets[row++] = ids[token];
      }
    }
    let loss = 0;
    for (let from = 0; from < N; from += rowsPerRun) {
      const to = Math.min(N, from + rowsPerRun);
      const part = (values: Float32Array | Int32Array, width: number) =>
        tensor(values.subarray(from * width, to * width), [to - from, width]);
      const results = await session.run({
        ...{ a, b, hidden: part(hidden, D), targets: part(targets, 1), gates: part(ofRows, Q) },
        weight: tensor(Float32Array.of(1 / N), []),
      });
      const of = (name: string) => results[name].data as Float32Array;
      for (const name of ["a", "b"] as const) {
        const sum = gradients.get(name)!;
        for (const [i, x] of of(`d_${name}`).entries()) sum[i] += x;
      }
      for (const [i, x] of of("d_gates").entries()) dGates[windowOf[from + Math.floor(i / Q)] * Q + (i % Q)] += x;
      loss += of("nll").reduce((sum, nll) => sum + nll / N, 0);
    }
    return loss;
  }

  /** Returns the mean loss before the step, in nats per token. */
  async function step(): Promise<number> {
    const next = state.step + 1;
    const random = new Random(seed, streams.firstStep + next);
    const drawn = clusters ? drawOfClusters(set.windows, clusters, random) : drawOf(set.windows, random);
    const passes = clusters ? drawn.map(({ input }) => hyperNetworkPass(parameters, input)) : [];
    const gates = new Float32Array(drawn.length * Q).fill(1);
    for (const [s, { output }] of passes.entries()) gates.set(output, s * Q);
    const dGates = new Float32Array(gates.length);
    const gradients = zerosLike(parameters);
    const loss = await runHead(drawn, gates, dGates, gradients);
    for (const [s, { backward }] of passes.entries()) {
      backward(dGates.subarray(s * Q, (s + 1) * Q), layersOf(gradients, 2));
    }
    const rate = learningRateAt(next, steps, learningRate, warmUpSteps);
    for (const [name, parameter] of parameters) {
      const moments = { first: first.get(name)!, second: second.get(name)! };
      adamWStep(parameter, gradients.get(name)!, moments, next, rate, weightDecay);
    }
    state.step = next;
    return loss;
  }
  return { state, step, release: () => session.release() };
}

/** gates = w2·gelu(w1·(√P·input) + b1) + b2 */
export function hyperNetworkPass(parameters: Parameters, input: Float32Array) {
  const scaled = input.map((value) => Math.sqrt(input.length) * value);
  return networkPass(layersOf(parameters, 2), scaled, gelu);
}

/** gelu_new: ½x(1 + tanh(c(x + kx³))). */
const gelu: Activation = (x) => {
  const [c, k] = [Math.sqrt(2 / Math.PI), 0.044715];
  const t = Math.tanh(c * (x + k * x ** 3));
  return [0.5 * x * (1 + t), 0.5 * (1 + t + x * (1 - t * t) * c * (1 + 3 * k * x * x))];
};

function drawTokens(window: Window, random: Random): Int32Array {
  return random.subset(scoredTokens(window), tokensPerWindow);
}

function drawOf(windows: readonly Window[], random: Random): DrawnWindow[] {
  return Array.from({ length: clustersPerStep * windowsPerCluster }, () => {
    const window = windows[random.integer(windows.length)];
    return { window, tokens: drawTokens(window, random), input: new Float32Array(0) };
  });
}

/** A window's input lies between its cluster's centroid and its embedding, so that gates vary smoothly. */
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
      const inputs = indexes.map((index) => {
        const share = random.uniform();
        return unitVector(centroid.map((x, p) => x + share * embeddings[index * P + p]));
      });
      return indexes.map((index, i) => {
        const window = windows[index];
        return { window, tokens: drawTokens(window, random), input: inputs[i] };
      });
    });
}

function initialState(shape: BankShape, hiddenSize: number, seed: number): TrainerState {
  const parameters = initialParameters(shape, hiddenSize, seed);
  return { step: 0, parameters, first: zerosLike(parameters), second: zerosLike(parameters) };
}
