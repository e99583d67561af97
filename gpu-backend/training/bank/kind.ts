/** What makes adapters, as the trainer sees it: its trainable tensors, its graph, and what a run feeds it. */
import type { Tensor } from "../../runtime/session.ts";
import type { ParameterName, Parameters } from "./parameters.ts";
import type { HeadWeights } from "./training-graph.ts";

export interface Kind {
  head: HeadWeights;
  /** The start of training; every tensor in it is trained. */
  initial(seed: number): Parameters;
  shapeOf(name: ParameterName): readonly number[];
  /** Trainable numbers. */
  trainable: number;
  graph(): Uint8Array;
  /** Inputs of the graph besides hidden states, targets, weight and parameters. */
  feeds(run: RunInputs): Record<string, Tensor>;
}

/** A window in a training step, as far as its adapter goes. */
export interface DrawnWindow {
  cluster: number;
  /** Windows of one cluster that were drawn together have one number. */
  batch: number;
  /** Input of the hyper-network, [P]. */
  embedding: Float32Array;
}

/** Windows that are computed in one run of the graph: S of them, N tokens. */
export interface RunInputs {
  windows: readonly DrawnWindow[];
  /** Position in `windows` of each token's window, [N]. */
  windowOf: Int32Array;
  /** Seed of the step, for dropout. */
  stepSeed: number;
}
