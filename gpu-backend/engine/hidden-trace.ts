/**
 * Collects the hidden states of one prompt, position by position, as the steps compute them: what an adapter is fitted
 * to. They are those of the trunk, the same whatever adapter is worn.
 */
export class HiddenTrace {
  readonly #take: (hidden: Float32Array<ArrayBuffer>) => void;
  readonly #rows: Float32Array[] = [];

  /** `take` gets them all, [N, D], once the prompt is done. */
  constructor(take: (hidden: Float32Array<ArrayBuffer>) => void) {
    this.#take = take;
  }

  /** The hidden state [D] of the next position. */
  add(hidden: Float32Array): void {
    this.#rows.push(hidden.slice());
  }

  done(): void {
    const D = this.#rows[0]?.length ?? 0;
    const hidden = new Float32Array(this.#rows.length * D);
    this.#rows.forEach((row, n) => {
      hidden.set(row, n * D);
    });
    this.#take(hidden);
  }
}
