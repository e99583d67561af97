/** The methods that are compared: how each is trained, and what serves a window of a centroid afterwards. */
import type { CentroidVectors } from "../../../shared/math/assignment.ts";
import { gatesOf, readHyperNetwork } from "../../adapters/hyper-network.ts";
import { expertsKind, expertsShape, gatedKind, staticKind } from "../bank/bank-kinds.ts";
import { type FullRecipe, fullKind, fullNetwork } from "../bank/full-kind.ts";
import type { Kind } from "../bank/kind.ts";
import { type Adapters, expertAdapters, fullAdapters, hyperNetworkAdapters, staticAdapter } from "../bank/measure.ts";
import { type BankShape, bankShape, type FullShape, type Parameters, parameterTensors } from "../bank/parameters.ts";
import { constantInput, type InputSource } from "../bank/trainer.ts";
import type { HeadWeights } from "../bank/training-graph.ts";

/** What is trained. */
export const trainedMethods = [
  "static",
  "static-full",
  "paper",
  "paper-centroid",
  "experts",
  "gated-bank",
  "constant-input",
] as const;
export type TrainedMethod = (typeof trainedMethods)[number];
/** What is claimed of the gated bank needs these; the others may be left out. */
export const coreMethods = ["static", "gated-bank", "constant-input"] as const;

/** What is scored: also the base, and two of the methods with the scales that they would be shipped with. */
export const methods = ["base", ...trainedMethods, "static-shipped", "gated-bank-shipped"] as const;
export type Method = (typeof methods)[number];

/** The training that a scored method comes from. */
export function trainedOf(method: Exclude<Method, "base">): TrainedMethod {
  return method.replace("-shipped", "") as TrainedMethod;
}

export interface MethodPlan {
  kind: Kind;
  input: InputSource;
  /** Of the graph that measures it: as many gates as its adapters have. */
  measured: BankShape;
  /** Peaks to choose among on validation, with the first seed. */
  learningRates: readonly number[];
  /** null: its adapters depend on the batch, and batch-mean.ts measures it. */
  adapters: ((parameters: Parameters, centroids: CentroidVectors) => Adapters) | null;
}

/** The published shape, whatever the model's width: 64 and 32 hidden units, pairs of rank 4. */
const fullHidden = [64, 32] as const;
const pairRank = 4;
/** Dropout and start of the published code. */
export const published: FullRecipe = { dropout: 0.5, zeroStart: false };
const ours: FullRecipe = { dropout: 0, zeroStart: true };

export interface MethodOptions {
  shape: BankShape;
  clusters: number; // K
  learningRate: number;
  /** Of all but the bank, which alone is not swept: a comparison with a badly tuned method would be none. */
  baselineLearningRates: readonly number[];
}

export function planMethods(head: HeadWeights, options: MethodOptions): Record<TrainedMethod, MethodPlan> {
  const { hiddenSize: D, vocabularySize: V } = head;
  const { shape, clusters: K, learningRate, baselineLearningRates } = options;
  const P = shape.dimensions;
  const fullShape = fullShapeOf(shape);
  const gated = gatedKind(head, shape);
  const full = (recipe: FullRecipe) => fullKind(head, fullShape, recipe);
  const staticOf = (size: number): MethodPlan => {
    // A static pair of more directions than the model is wide could be no more than a head of its own.
    const rank = Math.max(1, Math.min(D, Math.floor((size - V) / (D + V))));
    const measured = bankShape({ ...shape, rank, biases: 1 });
    const adapters = (parameters: Parameters) => staticAdapter(measured, parameters);
    const kind = staticKind(head, measured);
    return { kind, input: "constant", measured, learningRates: baselineLearningRates, adapters };
  };
  const bank = (input: InputSource, adapters: MethodPlan["adapters"]): MethodPlan => ({
    kind: gated,
    input,
    measured: shape,
    learningRates: [learningRate],
    adapters,
  });
  const experts = expertsShape(K, pairRank, P);
  return {
    static: staticOf(gated.trainable),
    "static-full": staticOf(full(ours).trainable),
    paper: {
      kind: full(published),
      input: "batch-mean",
      measured: bankShape({ ...shape, rank: pairRank, biases: 0 }),
      learningRates: baselineLearningRates,
      adapters: null,
    },
    "paper-centroid": {
      kind: full(ours),
      input: "centroid",
      measured: bankShape({ ...shape, rank: K * pairRank, biases: 0 }),
      learningRates: baselineLearningRates,
      adapters: (parameters, centroids) => fullAdapters(fullNetwork(head, fullShape, parameters), centroids),
    },
    experts: {
      kind: expertsKind(head, experts, K),
      input: "constant",
      measured: experts,
      learningRates: baselineLearningRates,
      adapters: (parameters, centroids) => expertAdapters(experts, parameters, centroids),
    },
    "gated-bank": bank("jittered", (parameters, centroids) => hyperNetworkAdapters(head, shape, parameters, centroids)),
    "constant-input": bank("constant", (parameters) => constantAdapter(head, shape, parameters)),
  };
}

export function fullShapeOf({ dimensions }: BankShape): FullShape {
  return { dimensions, hidden: fullHidden, rank: pairRank };
}

/** Trainable numbers of a method as it is scored. */
export function trainableOf(method: Method, plans: Record<TrainedMethod, MethodPlan>): number {
  if (method === "base") return 0;
  return plans[trainedOf(method)].kind.trainable;
}

/** The hyper-network's answer to an input that knows nothing, for all text. */
function constantAdapter(head: HeadWeights, shape: BankShape, parameters: Parameters): Adapters {
  const network = readHyperNetwork(parameterTensors(parameters, shape, head.hiddenSize, head.vocabularySize));
  const P = shape.dimensions;
  const input = constantInput(P);
  return {
    parameters,
    centroids: { count: 1, dimensions: P, vectors: new Float32Array(P) },
    gatesAt: (_, scale) => gatesOf(network, input, scale),
  };
}

/** The paper's network, to be fed with what batch-mean.ts gives it. */
export function paperNetwork(head: HeadWeights, shape: BankShape, parameters: Parameters) {
  return fullNetwork(head, fullShapeOf(shape), parameters);
}
