/** Sequences that give states or keys of their prompt in place of an answer. */
import { joinArrays } from "../../shared/bytes.ts";
import { writeKey } from "../memory/keys.ts";

/** What traced prompts give: a memory's keys, or hidden states; of each prompt from the one before token `from` on. */
export type Traced = { kind: "keys" } | { kind: "hidden"; from: readonly number[] };

/** Takes what a traced prompt gives instead of an answer, once. */
export interface Trace {
  readonly kind: Traced["kind"];
  /** The prompt of `tokens` tokens is computed; `stateAt` gives the state [D] before the last feed-forward part at a position. */
  done(tokens: number, stateAt: (position: number) => Float32Array): void;
}

/**
 * Collects the hidden states before the tokens of one prompt from `from` on, position by position, as the passes compute them. An
 * adapter is fitted to them. No adapter changes them.
 */
export class HiddenTrace implements Trace {
  readonly kind = "hidden";
  readonly from: number;
  readonly #take: (hidden: Float32Array<ArrayBuffer>) => void;
  readonly #rows: Float32Array<ArrayBuffer>[] = [];

  /** Calls `take` with the states, [N, D]. */
  constructor(from: number, take: (hidden: Float32Array<ArrayBuffer>) => void) {
    this.from = from;
    this.#take = take;
  }

  /** The hidden state [D] of the next position. */
  add(hidden: Float32Array): void {
    this.#rows.push(hidden.slice());
  }

  done(): void {
    this.#take(joinArrays<Float32Array<ArrayBuffer>>(Float32Array, this.#rows));
  }
}

/** Makes the keys that a memory has of one prompt. They need no head. */
export class KeyTrace implements Trace {
  readonly kind = "keys";
  readonly #take: (keys: Int8Array<ArrayBuffer>) => void;

  /** Calls `take` with a key for each token, [n, D]. */
  constructor(take: (keys: Int8Array<ArrayBuffer>) => void) {
    this.#take = take;
  }

  done(tokens: number, stateAt: (position: number) => Float32Array): void {
    const D = stateAt(0).length;
    const keys = new Int8Array(tokens * D);
    for (let t = 0; t < tokens; t++) writeKey(stateAt(t), keys.subarray(t * D, (t + 1) * D));
    this.#take(keys);
  }
}
