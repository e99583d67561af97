/** Computes losses of windows under given gates, through a forward-only graph. */
import { openSession, type Session, tensor } from "../../runtime/session.ts";
import { gatherBatch, runsOf, type WindowSet, wholeWindow } from "./batches.ts";
import { type BankShape, type Parameters, shapeOf } from "./parameters.ts";
import { buildLossGraph, type HeadWeights } from "./training-graph.ts";

export class LossMeter {
  readonly #session: Session;
  readonly #head: HeadWeights;
  readonly #shape: BankShape;

  private constructor(session: Session, head: HeadWeights, shape: BankShape) {
    this.#session = session;
    this.#head = head;
    this.#shape = shape;
  }

  static async open(head: HeadWeights, shape: BankShape, threads: number): Promise<LossMeter> {
    return new LossMeter(await openSession(buildLossGraph(head, shape), { threads }), head, shape);
  }

  /** V */
  get vocabularySize(): number {
    return this.#head.vocabularySize;
  }

  /** Q */
  get gates(): number {
    return this.#shape.gates;
  }

  /**
   * Sum of negative log-likelihoods of each window's scored tokens, in nats, [indexes].
   * @param gatesOf gates [Q] of a window; zeros give the base
   */
  async measure(
    set: WindowSet,
    indexes: readonly number[],
    parameters: Parameters,
    gatesOf: (index: number) => Float32Array,
  ): Promise<Float64Array> {
    const { hiddenSize: D, vocabularySize: V } = this.#head;
    const Q = this.#shape.gates;
    const sums = new Float64Array(indexes.length);
    let measured = 0;
    const parts = indexes.map((index) => wholeWindow(set, index));
    for (const run of runsOf(parts, ({ tokens }) => tokens.length, V)) {
      const { hidden, targets, windowOf } = await gatherBatch(set, run, D);
      const gates = new Float32Array(targets.length * Q);
      for (const [n, s] of windowOf.entries()) gates.set(gatesOf(run[s].index), n * Q);
      const losses = await this.tokenLosses(hidden, targets, gates, parameters);
      for (const [n, nll] of losses.entries()) sums[measured + windowOf[n]] += nll;
      measured += run.length;
    }
    return sums;
  }

  /**
   * Negative log-likelihood of each target, in nats, [N].
   * @param hidden [N, D]
   * @param targets [N]
   * @param gates [N, Q]
   */
  async tokenLosses(
    hidden: Float32Array,
    targets: Int32Array,
    gates: Float32Array,
    parameters: Parameters,
  ): Promise<Float32Array> {
    const { hiddenSize: D, vocabularySize: V } = this.#head;
    const N = targets.length;
    const bank = (name: "a" | "b") => tensor(parameters.get(name)!, shapeOf(name, this.#shape, D, V));
    const results = await this.#session.run({
      hidden: tensor(hidden, [N, D]),
      targets: tensor(targets, [N]),
      gates: tensor(gates, [N, this.#shape.gates]),
      a: bank("a"),
      b: bank("b"),
    });
    return results.nll.data as Float32Array;
  }

  release(): Promise<void> {
    return this.#session.release();
  }
}
