/**
 * Collects the hidden states of one prompt, position by position, as the passes compute them. An adapter is fitted to them. No
 * adapter changes them.
 */
export class HiddenTrace {
  readonly #take: (hidden: Float32Array<ArrayBuffer>) => void;
  readonly #rows: Float32Array[] = [];

  /** Calls `take` once with the states of all positions, [N, D]. */
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
