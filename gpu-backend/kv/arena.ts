/**
 * Keys and values of all running sequences: per layer two arrays [rows, H, P, d], dense, so that a step is fed views
 * of them and nothing is gathered. P and the row count come in power-of-two sizes and follow what is running, because
 * attention costs time over all P positions. Who has which row is the slot table's business.
 * Shapes: L layers, H heads, d head width, P positions, S sequences, T tokens.
 */
import type { StepInput } from "../runtime/step.ts";
import type { Move } from "./slot-table.ts";

export interface ArenaShape {
  layers: number;
  heads: number;
  headWidth: number;
  contextTokens: number;
  /** Upper bound of rows. */
  maximumRows: number;
}

const smallestPositions = 64;
const smallestRows = 4;
/** A smaller size must have this much room to spare before the arena shrinks to it, or it would flap. */
const fullShare = 0.75;

export class KvArena {
  readonly #shape: ArenaShape;
  /** Keys at 2l, values at 2l + 1, each [rowCapacity, H, P, d]. */
  #arrays: Float32Array[] = [];
  #rowCapacity = 0;
  #positions = 0; // P
  #rows = 0;
  /** Positions that hold keys and values, per row. */
  readonly #lengths: Int32Array;
  /** What a row is called for as long as it lives, wherever it moves. */
  readonly #names: number[] = [];
  #opened = 0;

  constructor(shape: ArenaShape) {
    this.#shape = shape;
    this.#lengths = new Int32Array(shape.maximumRows);
    this.#resize(smallestRows, smallestPositions);
  }

  /** P of the next feed. */
  get positions(): number {
    return this.#positions;
  }

  get rows(): number {
    return this.#rows;
  }

  get bytes(): number {
    return this.#arrays.reduce((sum, array) => sum + array.byteLength, 0);
  }

  lengthOf(row: number): number {
    return this.#lengths[row];
  }

  /** Starts the row after the last one, empty. */
  open(): void {
    if (this.#rows === this.#shape.maximumRows) throw new Error(`KV arena: all ${this.#rows} rows are taken`);
    this.#names.push(this.#opened++);
    this.#lengths[this.#rows++] = 0;
    if (this.#rows > this.#rowCapacity) this.#resize(this.#rows, this.#positions);
  }

  /** Moves rows as the slot table says. */
  follow(moves: readonly Move[]): void {
    const { heads: H, headWidth: d } = this.#shape;
    const rowElements = H * this.#positions * d;
    for (const { from, to, swap } of moves) {
      for (const array of this.#arrays) {
        const replaced = swap ? array.slice(to * rowElements, (to + 1) * rowElements) : null;
        array.copyWithin(to * rowElements, from * rowElements, (from + 1) * rowElements);
        if (replaced) array.set(replaced, from * rowElements);
      }
      const replacedLength = this.#lengths[to];
      this.#lengths[to] = this.#lengths[from];
      if (swap) this.#lengths[from] = replacedLength;
      const replacedName = this.#names[to];
      this.#names[to] = this.#names[from];
      if (swap) this.#names[from] = replacedName;
    }
  }

  /** Drops one row: follows the moves of its release, then lets go of the last row. */
  close(moves: readonly Move[]): void {
    this.follow(moves);
    this.#rows--;
    this.#names.length--;
  }

  /** What a step over rows [first, first + count) reads: `past` views of [count, H, P, d], their lengths and names. */
  feed(first: number, count: number): Pick<StepInput, "past" | "pastLengths" | "pastRows"> {
    const rowElements = this.#shape.heads * this.#positions * this.#shape.headWidth;
    return {
      past: this.#arrays.map((array) => array.subarray(first * rowElements, (first + count) * rowElements)),
      pastLengths: this.#lengths.slice(first, first + count),
      pastRows: { fed: this.#names.slice(first, first + count), kept: [...this.#names] },
    };
  }

  /** Makes room for rows of so many positions, once, before several appends. */
  reserve(positions: number): void {
    if (positions > this.#positions) this.#resize(this.#rowCapacity, positions);
  }

  /**
   * Appends a step's new keys and values, `present` [2L, S, H, T, d], to rows [first, first + S): the first
   * `counts[s]` tokens of each.
   */
  append(first: number, counts: readonly number[], present: Float32Array, tokens: number): void {
    const { heads: H, headWidth: d, contextTokens } = this.#shape;
    const longest = counts.reduce((max, count, s) => Math.max(max, this.#lengths[first + s] + count), 0);
    if (longest > contextTokens) {
      throw new Error(`KV arena: ${longest} positions do not fit the context of ${contextTokens}`);
    }
    this.reserve(longest);
    const P = this.#positions;
    const S = counts.length;
    this.#arrays.forEach((array, i) => {
      for (let s = 0; s < S; s++) {
        const length = this.#lengths[first + s];
        for (let h = 0; h < H; h++) {
          const from = ((i * S + s) * H + h) * tokens * d;
          const to = (((first + s) * H + h) * P + length) * d;
          const elements = counts[s] * d;
          // Views cost more than the copy where it is one token.
          if (elements > d) array.set(present.subarray(from, from + elements), to);
          else for (let e = 0; e < elements; e++) array[to + e] = present[from + e];
        }
      }
    });
    for (let s = 0; s < S; s++) this.#lengths[first + s] += counts[s];
  }

  /** A copy of a row's keys and values at positions [from, to), [2L, H, to − from, d], as `append` takes them. */
  read(row: number, from: number, to: number): Float32Array {
    const { heads: H, headWidth: d } = this.#shape;
    const elements = (to - from) * d;
    const copy = new Float32Array(this.#arrays.length * H * elements);
    this.#arrays.forEach((array, i) => {
      for (let h = 0; h < H; h++) {
        const start = ((row * H + h) * this.#positions + from) * d;
        copy.set(array.subarray(start, start + elements), (i * H + h) * elements);
      }
    });
    return copy;
  }

  /** Gives memory back where a smaller size holds what is running with room to spare. */
  trim(): void {
    const longest = this.#lengths.subarray(0, this.#rows).reduce((a, b) => Math.max(a, b), 0);
    const positions = Math.min(this.#positions, bucket(longest / fullShare, smallestPositions));
    const rows = Math.min(this.#rowCapacity, bucket(this.#rows / fullShare, smallestRows));
    if (positions < this.#positions || rows < this.#rowCapacity) this.#resize(rows, positions);
  }

  /** Copies what is running into arrays with room for `rows` and `positions`. */
  #resize(rows: number, positions: number): void {
    const { layers, heads: H, headWidth: d, contextTokens, maximumRows } = this.#shape;
    const rowCapacity = Math.min(bucket(rows, smallestRows), maximumRows);
    const P = Math.min(bucket(positions, smallestPositions), contextTokens);
    const oldP = this.#positions;
    for (let i = 0; i < 2 * layers; i++) {
      const grown = new Float32Array(rowCapacity * H * P * d);
      const old = this.#arrays[i];
      for (let row = 0; row < Math.min(this.#rows, this.#rowCapacity); row++) {
        const elements = this.#lengths[row] * d;
        for (let h = 0; h < H; h++) {
          const from = (row * H + h) * oldP * d;
          grown.set(old.subarray(from, from + elements), (row * H + h) * P * d);
        }
      }
      this.#arrays[i] = grown;
    }
    this.#rowCapacity = rowCapacity;
    this.#positions = P;
  }
}

/** The smallest power of two that is at least `wanted` and `smallest`, itself one. */
function bucket(wanted: number, smallest: number): number {
  let size = smallest;
  while (size < wanted) size *= 2;
  return size;
}
