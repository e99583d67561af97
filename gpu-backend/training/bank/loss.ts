/** Computes losses of windows under given gates, over the whole vocabulary, through a forward-only graph. */
import { openSession, type Session, tensor } from "../../runtime/session.ts";
import type { Bank } from "../../runtime/step.ts";
import { gatherBatch, runsOf, type WindowSet, wholeWindow } from "./batches.ts";
import { buildLossGraph, type HeadWeights } from "./training-graph.ts";

export class LossMeter {
  readonly #session: Session;
  readonly #head: HeadWeights;
  readonly #gates: number;

  private constructor(session: Session, head: HeadWeights, gates: number) {
    this.#session = session;
    this.#head = head;
    this.#gates = gates;
  }

  /** `a0` [Q]: of the banks that will be measured. */
  static async open(head: HeadWeights, a0: Float32Array, threads: number): Promise<LossMeter> {
    return new LossMeter(await openSession(buildLossGraph(head, a0), { threads }), head, a0.length);
  }

  /**
   * Sum of negative log-likelihoods of each window's scored tokens, in nats, [indexes].
   * @param gatesOf gates [Q] of a window; zeros give the base
   */
  async measure(
    set: WindowSet,
    indexes: readonly number[],
    bank: Bank,
    gatesOf: (index: number) => Float32Array,
  ): Promise<Float64Array> {
    const { hiddenSize: D, vocabularySize: V } = this.#head;
    const sums = new Float64Array(indexes.length);
    let measured = 0;
    const parts = indexes.map((index) => wholeWindow(set, index));
    for (const run of runsOf(parts, ({ tokens }) => tokens.length, V)) {
      const { hidden, targets, windowOf } = await gatherBatch(set, run, D);
      const gates = new Float32Array(targets.length * this.#gates);
      for (const [n, s] of windowOf.entries()) gates.set(gatesOf(run[s].index), n * this.#gates);
      const losses = await this.tokenLosses(hidden, targets, gates, bank);
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
    { a, b }: Pick<Bank, "a" | "b">,
  ): Promise<Float32Array> {
    const D = this.#head.hiddenSize;
    const [N, Q] = [targets.length, this.#gates];
    const results = await this.#session.run({
      hidden: tensor(hidden, [N, D]),
      targets: tensor(targets, [N]),
      gates: tensor(gates, [N, Q]),
      a: tensor(a, [Q, D]),
      b: tensor(b, [Q, D]),
    });
    return results.nll.data as Float32Array;
  }

  release(): Promise<void> {
    return this.#session.release();
  }
}
