/** The compared methods: how each is trained, which variants validation chooses among, and which adapter serves a window. */
import type { CentroidVectors } from "../../../shared/math/assignment.ts";
import { gatesOf, readHyperNetwork } from "../../adapters/hyper-network.ts";
import {
  gatedKind,
  maskedKind,
  maskedShape,
  maskOf,
  type SharedAndOwn,
  staticKind,
  tableKind,
} from "../bank/bank-kinds.ts";
import { type FullRecipe, fullKind, fullNetwork } from "../bank/full-kind.ts";
import type { Kind } from "../bank/kind.ts";
import { type Adapters, fullAdapters, hyperNetworkAdapters, staticAdapter } from "../bank/measure.ts";
import { type BankShape, bankShape, type FullShape, type Parameters, parameterTensors } from "../bank/parameters.ts";
import type { BankSettings } from "../bank/settings.ts";
import { constantInput, type TrainerOptions } from "../bank/trainer.ts";
import type { HeadWeights } from "../bank/training-graph.ts";

/** What a trial may vary. */
export type Variant = Pick<TrainerOptions, "learningRate" | "steps" | "weightDecay" | "draws">;

export interface Method {
  name: string;
  kind: Kind;
  input: TrainerOptions["input"];
  /** Of the graph that measures it: as many gates as its adapters have. */
  measured: BankShape;
  /**
   * Rounds of variants: each round's are tried with the first seed beside the best so far, as changes to it, and validation
   * chooses. Later seeds take what was chosen.
   */
  rounds: readonly (readonly Partial<Variant>[])[];
  /** Steps of the trials of a round that are cut short; absent: the whole training is tried. */
  screeningSteps?: number;
  /** How many of the seeds train it. */
  seeds: number;
  /** null: its adapters depend on the batch, and batch-mean.ts measures it. */
  adapters: ((parameters: Parameters, centroids: CentroidVectors) => Adapters) | null;
}

/** The published shape, whatever the model's width: 64 and 32 hidden units, pairs of rank 4. */
const fullHidden = [64, 32] as const;
const pairRank = 4;
/** Dropout and start of the published code. */
export const published: FullRecipe = { dropout: 0.5, zeroStart: false };
const ours: FullRecipe = { dropout: 0, zeroStart: true };
const rates = [3e-3, 1e-2, 3e-2];
const everySeed = Number.POSITIVE_INFINITY;

export const bankMethod = "gated bank, retrained";
export const staticMethod = "static head";
export const tableMethod = "table of gates";
export const expertMethod = "an expert per centroid";

/**
 * All but the bank choose their learning rate. The static head, which the bank is judged by, also chooses steps, weight decay
 * and draws; the table of gates also chooses its steps. One step of either takes a third of the windows of a step of the bank.
 */
export function comparedMethods(head: HeadWeights, settings: BankSettings, P: number): Method[] {
  const { hiddenSize: D, vocabularySize: V } = head;
  const { clusters: K, steps } = settings;
  const stepsForAsMuchText = 3 * steps;
  const shape = bankShape({ ...settings, dimensions: P });
  const size = gatedKind(head, shape).trainable;
  const swept = {
    rounds: [rates.map((learningRate) => ({ learningRate }))],
    screeningSteps: Math.ceil(steps / 4),
    seeds: everySeed,
  };
  /** The largest shared rank that leaves the whole no larger than the bank. */
  const masked = (name: string, sizes: Omit<SharedAndOwn, "clusters" | "sharedRank">, shares: boolean): Method => {
    const others = K * (sizes.ownRank * (D + V) + sizes.ownBiases * V) + sizes.sharedBiases * V;
    const sharedRank = shares ? Math.max(1, Math.floor((size - others) / (D + V))) : 0;
    const own: SharedAndOwn = { ...sizes, clusters: K, sharedRank };
    return {
      ...{ name, ...swept, input: "centroid", kind: maskedKind(head, own, P), measured: maskedShape(own, P) },
      adapters: (parameters, centroids) => ({
        ...{ parameters, centroids },
        gatesAt: (k, scale) => maskOf(own, k, scale),
      }),
    };
  };
  const staticShape = bankShape({ ...shape, rank: Math.max(1, Math.floor((size - V) / (D + V))), biases: 1 });
  /** Of an expert that, with one bias each, makes K experts about as large as the bank. */
  const expertRank = Math.max(1, Math.floor((size / K - V) / (D + V)));
  const full = (name: string, recipe: FullRecipe, input: Method["input"], rank: number): Method => {
    const fullShape = fullShapeOf(P);
    const isBatchMean = input === "batch-mean";
    return {
      ...{ name, ...swept, seeds: 1, input, kind: fullKind(head, fullShape, recipe) },
      measured: bankShape({ ...shape, rank, biases: 0 }),
      adapters: isBatchMean
        ? null
        : (parameters, centroids) => fullAdapters(fullNetwork(head, fullShape, parameters), centroids),
    };
  };
  const fixed = { rounds: [], seeds: everySeed, kind: gatedKind(head, shape), measured: shape };
  return [
    {
      ...{ name: bankMethod, ...fixed, input: "jittered" },
      adapters: (parameters, centroids) => hyperNetworkAdapters(head, shape, parameters, centroids),
    },
    {
      ...{ name: tableMethod, input: "centroid", kind: tableKind(head, shape, K), measured: shape, seeds: everySeed },
      rounds: [rates.map((learningRate) => ({ learningRate })), [{ steps: stepsForAsMuchText }]],
      adapters: (parameters, centroids) => tableAdapters(parameters, centroids, shape.gates),
    },
    {
      ...{ name: "bank, constant input", ...fixed, seeds: 1, input: "constant" },
      adapters: (parameters) => constantAdapter(head, shape, parameters),
    },
    {
      ...{ name: staticMethod, input: "constant", kind: staticKind(head, staticShape), measured: staticShape },
      rounds: [
        rates.map((learningRate) => ({ learningRate })),
        [{ steps: Math.ceil(steps / 2) }, { steps: 2 * steps }, { steps: stepsForAsMuchText }],
        [{ weightDecay: 0.01 }, { weightDecay: 0.1 }],
        [{ draws: "windows" }],
      ],
      seeds: everySeed,
      adapters: (parameters) => staticAdapter(staticShape, parameters),
    },
    masked("static head and a bias per centroid", { sharedBiases: 1, ownRank: 0, ownBiases: 1 }, true),
    masked("static head and experts", { sharedBiases: 1, ownRank: Math.ceil(expertRank / 2), ownBiases: 1 }, true),
    masked(expertMethod, { sharedBiases: 0, ownRank: expertRank, ownBiases: 1 }, false),
    full("paper's network, batch mean", published, "batch-mean", pairRank),
    full("paper's network, our start, centroid", ours, "centroid", K * pairRank),
  ];
}

export function fullShapeOf(P: number): FullShape {
  return { dimensions: P, hidden: fullHidden, rank: pairRank };
}

function tableAdapters(parameters: Parameters, centroids: CentroidVectors, Q: number): Adapters {
  const table = parameters.get("g")!;
  const gatesAt = (k: number, scale: number) => table.slice(k * Q, (k + 1) * Q).map((gate) => scale * gate);
  return { parameters, centroids, gatesAt };
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
export function paperNetwork(head: HeadWeights, P: number, parameters: Parameters) {
  return fullNetwork(head, fullShapeOf(P), parameters);
}
