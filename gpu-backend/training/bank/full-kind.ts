/** The paper's kind (arXiv 2502.04315): a hyper-network that makes a whole low-rank pair from its input. */
import type { FullNetwork } from "../../adapters/full-network.ts";
import { tensor } from "../../runtime/session.ts";
import { Random } from "../random.ts";
import { streams } from "../streams.ts";
import { buildFullTrainingGraph } from "./full-graph.ts";
import type { Kind, RunInputs } from "./kind.ts";
import type { FullShape, Parameters } from "./parameters.ts";
import type { HeadWeights } from "./training-graph.ts";

/** Dropout and start: the published ones, or ours. */
export interface FullRecipe {
  /** Share of hidden units that a training step leaves out. */
  dropout: number;
  /** true: B is zero at first, so the delta is; false: every layer starts uniform in ±1/√inputs, PyTorch's default. */
  zeroStart: boolean;
}

export function fullKind(head: HeadWeights, shape: FullShape, recipe: FullRecipe): Kind {
  const shapes = shapesOf(head, shape);
  const { rank: R, dimensions: P } = shape;
  return {
    head,
    initial: (seed) => initialFull(head, shape, recipe, seed),
    shapeOf: (name) => shapes[name as keyof typeof shapes],
    trainable: Object.values(shapes).reduce((sum, size) => sum + size.reduce((a, b) => a * b, 1), 0),
    graph: () => buildFullTrainingGraph(head, shape),
    feeds(run) {
      const { windows, windowOf } = run;
      const [N, S] = [windowOf.length, windows.length];
      const embeddings = new Float32Array(S * P);
      for (const [s, { embedding }] of windows.entries()) embeddings.set(embedding, s * P);
      const gates = new Float32Array(N * S * R);
      for (const [n, s] of windowOf.entries()) gates.fill(1, (n * S + s) * R, (n * S + s + 1) * R);
      const [m1, m2] = masks(run, shape, recipe.dropout);
      return {
        embeddings: tensor(embeddings, [S, P]),
        gates: tensor(gates, [N, S * R]),
        m1: tensor(m1, [S, shape.hidden[0]]),
        m2: tensor(m2, [S, shape.hidden[1]]),
      };
    },
  };
}

/** What serving reads (full-network.ts), over the trained tensors themselves. */
export function fullNetwork(head: HeadWeights, shape: FullShape, parameters: Parameters): FullNetwork {
  const { hiddenSize, vocabularySize } = head;
  const of = (name: "w1" | "b1" | "w2" | "b2" | "w3" | "b3") => parameters.get(name)!;
  const [w1, b1, w2, b2, w3, b3] = [of("w1"), of("b1"), of("w2"), of("b2"), of("w3"), of("b3")];
  return { ...shape, hiddenSize, vocabularySize, w1, b1, w2, b2, w3, b3 };
}

/** Dropout masks [S, H] of both layers, equal for the windows of a batch, which share one adapter. */
function masks({ windows, stepSeed }: RunInputs, { hidden }: FullShape, dropout: number): Float32Array[] {
  const ofBatch = new Map<number, Float32Array>();
  const width = hidden[0] + hidden[1];
  const result = hidden.map((units) => new Float32Array(windows.length * units));
  for (const [s, { batch }] of windows.entries()) {
    let mask = ofBatch.get(batch);
    if (!mask) {
      const random = new Random(stepSeed, streams.dropout + batch);
      mask = Float32Array.from({ length: width }, () => (random.uniform() < dropout ? 0 : 1 / (1 - dropout)));
      ofBatch.set(batch, mask);
    }
    result[0].set(mask.subarray(0, hidden[0]), s * hidden[0]);
    result[1].set(mask.subarray(hidden[0]), s * hidden[1]);
  }
  return result;
}

function shapesOf({ hiddenSize: D, vocabularySize: V }: HeadWeights, { dimensions: P, hidden, rank: R }: FullShape) {
  const [H1, H2] = hidden;
  const values = R * (D + V);
  return { w1: [H1, P], b1: [H1], w2: [H2, H1], b2: [H2], w3: [values, H2], b3: [values] };
}

function initialFull(head: HeadWeights, shape: FullShape, { zeroStart }: FullRecipe, seed: number): Parameters {
  const random = new Random(seed, streams.initialise);
  const { hiddenSize: D } = head;
  const parameters: Parameters = new Map();
  for (const [name, size] of Object.entries(shapesOf(head, shape))) {
    const length = size.reduce((a, b) => a * b, 1);
    const inputs = { 1: shape.dimensions, 2: shape.hidden[0], 3: shape.hidden[1] }[name[1]]!;
    const bound = 1 / Math.sqrt(inputs);
    const values = Float32Array.from({ length }, () => bound * (2 * random.uniform() - 1));
    if (zeroStart && name === "w3") values.fill(0, shape.rank * D * shape.hidden[1]);
    if (zeroStart && name === "b3") {
      for (let i = 0; i < shape.rank * D; i++) values[i] = random.normal() / Math.sqrt(D);
      values.fill(0, shape.rank * D);
    }
    parameters.set(name as "w1", values);
  }
  return parameters;
}
