/** Where the runner keeps full adapters: two tensors with a slot for each, and the masks that say whose row uses which. */
import type { PoolShape } from "./adapter-graph.ts";
import { type Tensor, tensor } from "./session.ts";
import type { AdapterPool, Gpt2Config } from "./step.ts";

/** The pool's two tensors, read in place by every run. */
export class PoolTensors implements AdapterPool {
  readonly slots: number;
  readonly rank: number;
  readonly a: Tensor;
  readonly b: Tensor;
  readonly #aRows: Float32Array; // [slots × rank, D]
  readonly #bRows: Float32Array; // [slots × rank, V]

  constructor(config: Gpt2Config, { slots, rank }: PoolShape) {
    this.slots = slots;
    this.rank = rank;
    this.#aRows = new Float32Array(slots * rank * config.hiddenSize);
    this.#bRows = new Float32Array(slots * rank * config.vocabularySize);
    this.a = tensor(this.#aRows, [slots * rank, config.hiddenSize]);
    this.b = tensor(this.#bRows, [slots * rank, config.vocabularySize]);
  }

  write(slot: number, a: Float32Array, b: Float32Array): void {
    if (slot < 0 || slot >= this.slots) throw new Error(`pool slot ${slot} of ${this.slots}`);
    for (const [rows, values] of [
      [this.#aRows, a],
      [this.#bRows, b],
    ]) {
      const room = rows.length / this.slots;
      if (values.length !== room) throw new Error(`a pool slot holds ${room} values, got ${values.length}`);
      rows.set(values, slot * room);
    }
  }

  /** [...rows, slots × rank]: 1 in the columns of each row's slot. */
  mask(poolSlots: Int32Array | undefined, rows: readonly number[]): Tensor {
    const width = this.slots * this.rank;
    const mask = new Float32Array(rows.reduce((a, b) => a * b, width));
    poolSlots?.forEach((slot, n) => {
      if (slot >= 0) mask.fill(1, n * width + slot * this.rank, n * width + (slot + 1) * this.rank);
    });
    return tensor(mask, [...rows, width]);
  }
}
