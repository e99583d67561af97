/** Computes hidden states with the runner that serving uses. */
import { HostRunner } from "../../kv/host-runner.ts";
import type { KvBlock, Runner } from "../../kv/runner.ts";
import type { StepRunner } from "../../runtime/step.ts";

export class Prefill {
  readonly #runner: Runner;

  constructor(steps: StepRunner) {
    this.#runner = new HostRunner(steps, { maxSequences: 1, chunkTokens: 1, kvBytes: 2 ** 30 });
  }

  /** States after the last layer norm of the last `count` tokens, [count, D]. */
  async states(ids: readonly number[], count: number): Promise<Float32Array> {
    return (await this.#run(ids, null, count)).hidden;
  }

  /** State after the last layer norm of each text's last token, [texts, D]. */
  async lastStates(texts: readonly (readonly number[])[]): Promise<Float32Array> {
    const shortest = Math.min(...texts.map(({ length }) => length));
    let common = 0;
    while (common < shortest - 1 && texts.every((ids) => ids[common] === texts[0][common])) common++;
    const begun =
      common > 0 && texts.length > 1 ? (await this.#run(texts[0].slice(0, common), null, 1, true)).block : null;
    const all = new Float32Array(texts.length * this.#runner.config.hiddenSize);
    for (const [n, ids] of texts.entries()) {
      const { hidden } = await this.#run(ids, begun && { block: begun, tokens: common }, 1);
      all.set(hidden, n * hidden.length);
    }
    begun?.free();
    return all;
  }

  /** `begun` has keys and values of the text's beginning. If `keeps`, the result's `block` has those of the whole text. */
  async #run(ids: readonly number[], begun: { block: KvBlock; tokens: number } | null, count: number, keeps = false) {
    const { kv: store, gates } = this.#runner;
    const kv = store.open(ids.length);
    try {
      store.place([{ kv, positions: ids.length }]);
      if (begun) store.write(kv, begun.block, begun.tokens);
      const none = { rows: new Int32Array(0), ids: new Int32Array(0), values: new Float32Array(0) };
      const { hidden } = await this.#runner.run({
        phase: "prefill",
        rows: [{ kv, tokens: ids.slice(kv.positions) }],
        states: Array.from({ length: count }, (_, i) => ({ kv, position: ids.length - count + i })),
        head: {
          ...{ gates: new Float32Array(count * gates), targetIds: new Int32Array(count), bias: none },
          inverseTemperatures: new Float32Array(count).fill(1),
          want: { scores: false, hidden: true, only: "likeliest" },
        },
      });
      return { hidden: hidden!, block: keeps ? store.copy(kv, 0, kv.positions) : null };
    } finally {
      store.close(kv);
    }
  }
}
