/** Scores texts under the base, the static adapter, the nearest centroid's adapter, and the mixture. */

import type { Bank } from "../../runtime/step.ts";
import type { TrunkRunner } from "../../runtime/trunk-runner.ts";
import { LossMeter } from "../../training/bank/loss.ts";
import type { HeadWeights } from "../../training/bank/training-graph.ts";
import { type Method, methods } from "./data.ts";
import { evidenceOf, expertsOf, mixedGates, type Placement } from "./plans.ts";
import { scoredTokens, type Text, withPrompt } from "./texts.ts";

/** Log-likelihood of each scored token, in nats, [texts][scoredTokens], by method. */
export type Scores = Record<Method, Float32Array[]>;

/** Texts of one pass of the trunk. */
const textsPerPass = 8;
/** Logits of one run of the head, in numbers. */
const maxLogits = 2 ** 24;

/** Rows of the head: hidden state, target and gates of each. */
interface HeadRow {
  state: Float32Array; // [D]
  target: number;
  gates: Float32Array; // [Q]
}

export class Scorer {
  readonly #trunk: Pick<TrunkRunner, "hidden">;
  readonly #meter: LossMeter;
  readonly #head: HeadWeights;
  readonly #bank: Bank;
  readonly #placement: Placement;

  private constructor(
    trunk: Pick<TrunkRunner, "hidden">,
    meter: LossMeter,
    head: HeadWeights,
    bank: Bank,
    placement: Placement,
  ) {
    this.#trunk = trunk;
    this.#meter = meter;
    this.#head = head;
    this.#bank = bank;
    this.#placement = placement;
  }

  static async open(
    trunk: Pick<TrunkRunner, "hidden">,
    head: HeadWeights,
    bank: Bank,
    placement: Placement,
    threads: number,
  ): Promise<Scorer> {
    return new Scorer(trunk, await LossMeter.open(head, bank.a0, threads), head, bank, placement);
  }

  /** Scores the texts after prompts of so many tokens. */
  async score(texts: readonly Text[], promptTokens: number): Promise<Scores> {
    const scores: Scores = { base: [], static: [], nearest: [], mixture: [] };
    for (let from = 0; from < texts.length; from += textsPerPass) {
      const ids = texts.slice(from, from + textsPerPass).map((text) => withPrompt(text, promptTokens));
      const T = promptTokens + scoredTokens;
      const hidden = await this.#trunk.hidden(Int32Array.from(ids.flat()), ids.length, T); // [S, T, D]
      const size = T * this.#head.hiddenSize;
      for (const [s, own] of ids.entries()) {
        const scored = await this.#scoreText(own, hidden.subarray(s * size, (s + 1) * size), promptTokens);
        for (const method of methods) scores[method].push(scored[method]);
      }
    }
    return scores;
  }

  release(): Promise<void> {
    return this.#meter.release();
  }

  /** The gates of each method, [Q], as the prompt of a text weighs them. `hidden` [T, D]. */
  async gatesOf(
    ids: readonly number[],
    hidden: Float32Array,
    promptTokens: number,
  ): Promise<Record<Method, Float32Array>> {
    const { calibration, staticGates } = this.#placement;
    const experts = expertsOf(ids.slice(0, promptTokens), this.#placement);
    const evidence = evidenceOf(promptTokens);
    const rows = evidence.flatMap((t) => experts.gates.map((gates) => this.#row(ids, hidden, t, gates)));
    const told = await this.#logprobs(rows);
    const E = experts.gates.length;
    const logprobs = evidence.map((_, n) => [...told.subarray(n * E, (n + 1) * E)]);
    return {
      base: new Float32Array(staticGates.length),
      static: staticGates,
      nearest: experts.nearest,
      mixture: mixedGates(experts, logprobs, calibration),
    };
  }

  #row(ids: readonly number[], hidden: Float32Array, position: number, gates: Float32Array): HeadRow {
    const D = this.#head.hiddenSize;
    return { state: hidden.subarray(position * D, (position + 1) * D), target: ids[position + 1], gates };
  }

  /** `hidden` [T, D] */
  async #scoreText(ids: number[], hidden: Float32Array, promptTokens: number): Promise<Record<Method, Float32Array>> {
    const gatesOf = await this.gatesOf(ids, hidden, promptTokens);
    const positions = Array.from({ length: scoredTokens }, (_, i) => promptTokens - 1 + i);
    const scored = await this.#logprobs(
      methods.flatMap((method) => positions.map((t) => this.#row(ids, hidden, t, gatesOf[method]))),
    );
    const of = (m: number) => scored.slice(m * scoredTokens, (m + 1) * scoredTokens);
    return { base: of(0), static: of(1), nearest: of(2), mixture: of(3) };
  }

  async #logprobs(rows: readonly HeadRow[]): Promise<Float32Array> {
    const { hiddenSize: D, vocabularySize: V } = this.#head;
    const Q = this.#bank.gates;
    const result = new Float32Array(rows.length);
    const perRun = Math.max(1, Math.floor(maxLogits / V));
    for (let from = 0; from < rows.length; from += perRun) {
      const own = rows.slice(from, from + perRun);
      const hidden = new Float32Array(own.length * D);
      const gates = new Float32Array(own.length * Q);
      for (const [n, one] of own.entries()) {
        hidden.set(one.state, n * D);
        gates.set(one.gates, n * Q);
      }
      const targets = Int32Array.from(own, ({ target }) => target);
      const losses = await this.#meter.tokenLosses(hidden, targets, gates, this.#bank);
      result.set(
        losses.map((nats) => -nats),
        from,
      );
    }
    return result;
  }
}
