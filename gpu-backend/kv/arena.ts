/**
 * Keys, values and states of the running sequences of one length class, in dense arrays [rows, H, P, d], so that a step is
 * fed views without a copy. P has few sizes and follows the running sequences, because attention of a decode step costs time
 * over all P positions. Rows are 0, 1, 2, … from the start of the arrays, or -1, -2, -3, … from their end: row r begins r × H ×
 * P × d after it. Not here: who has which row (slot-table.ts), how many may run (kv-budget.ts), and who owns the arrays
 * (kv-memory.ts).
 * Shapes: L layers, H heads, d head width, P positions, S sequences, T tokens.
 */
import type { StepInput } from "../runtime/step.ts";
import { bytesPerPosition, positionsFor } from "./kv-budget.ts";
import { KvMemory, type KvMemoryShape, type Side } from "./kv-memory.ts";
import type { Move } from "./slot-table.ts";

/** The arena shrinks to a smaller size only if at most this part of it is used, so that sizes do not alternate. */
const fullShare = 0.75;

export class KvArena {
  readonly #shape: KvMemoryShape;
  readonly #memory: KvMemory;
  readonly #side: Side;
  #positions: number; // P
  #rows = 0;
  /** Positions that hold keys and values, by the slot table's rows. */
  readonly #lengths: Int32Array;
  /** Positions that are needed soon. */
  readonly #wanted: Int32Array;
  /** Buffer for the head that `follow` replaces, [contextTokens, d]. */
  readonly #replaced: Float32Array;

  constructor(shape: KvMemoryShape, memory = new KvMemory(shape), side: Side = "start") {
    this.#shape = shape;
    this.#memory = memory;
    this.#side = side;
    this.#lengths = new Int32Array(shape.maximumRows);
    this.#wanted = new Int32Array(shape.maximumRows);
    this.#replaced = new Float32Array(shape.contextTokens * shape.headWidth);
    this.#positions = positionsFor(0, shape);
    memory.join(this, side);
  }

  /** P of the next feed. */
  get positions(): number {
    return this.#positions;
  }

  get rows(): number {
    return this.#rows;
  }

  /** Positions of its rows in the arrays. */
  get span(): number {
    return this.#rows * this.#positions;
  }

  /** Converts the slot table's row to the arena's, and back. */
  rowAt(row: number): number {
    return this.#side === "end" ? -1 - row : row;
  }

  /** Bytes of the positions in use. */
  get usedBytes(): number {
    const positions = this.#lengths.subarray(0, this.#rows).reduce((sum, length) => sum + length, 0);
    return positions * bytesPerPosition(this.#shape);
  }

  lengthOf(row: number): number {
    return this.#lengths[this.rowAt(row)];
  }

  /** Starts an empty row after the last one, with room for `wanted` positions. */
  open(wanted = 0): void {
    if (this.#rows === this.#shape.maximumRows) throw new Error(`KV arena: all ${this.#rows} rows are taken`);
    this.#lengths[this.#rows] = 0;
    this.#wanted[this.#rows++] = wanted;
    const least = positionsFor(this.#longest, this.#shape);
    this.#fit(this.#rows > 1 ? Math.max(this.#positions, least) : least, least);
  }

  /** Moves rows as the slot table says. */
  follow(moves: readonly Move[]): void {
    const { heads: H, headWidth: d } = this.#shape;
    for (const { from, to, swap } of moves) {
      // Positions past a row's length hold stale data and are not moved.
      const [moved, replaced] = [this.#lengths[from] * d, this.#lengths[to] * d];
      for (const array of this.#memory.arrays) {
        for (let h = 0; h < H; h++) {
          const [source, target] = [this.#startOf(this.rowAt(from), h), this.#startOf(this.rowAt(to), h)];
          if (swap) this.#replaced.set(array.subarray(target, target + replaced));
          array.copyWithin(target, source, source + moved);
          if (swap) array.set(this.#replaced.subarray(0, replaced), source);
        }
      }
      for (const ofRows of [this.#lengths, this.#wanted]) {
        [ofRows[to], ofRows[from]] = [ofRows[from], ofRows[to]];
      }
    }
  }

  /** Removes one row: follows the moves of its release, then removes the last row. */
  close(moves: readonly Move[]): void {
    this.follow(moves);
    this.#rows--;
  }

  /** Input of a step over rows [first, first + count): `past` of [count, H, P, d], its P, lengths. */
  feed(first: number, count: number): Pick<StepInput, "past" | "pastTokens" | "pastLengths"> {
    const pastLengths = Int32Array.from({ length: count }, (_, s) => this.lengthOf(first + s));
    const [start, end] = [this.#startOf(first), this.#startOf(first + count)];
    return {
      past: this.#memory.arrays.map((array) => array.subarray(start, end)),
      pastTokens: this.#positions,
      pastLengths,
    };
  }

  /** Makes room for rows of `positions` positions, once, before several appends. */
  reserve(positions: number): void {
    const P = positionsFor(positions, this.#shape);
    if (positions > this.#positions) this.#fit(P, P);
  }

  /**
   * Appends a step's new keys and values, `present` [2L, S, H, T, d]: the first `counts[s]` tokens of its sequence `begin + s` to
   * row `first + s`.
   */
  append(first: number, counts: readonly number[], present: Float32Array, tokens: number, begin = 0): void {
    const { heads: H, headWidth: d, contextTokens } = this.#shape;
    const longest = counts.reduce((max, count, s) => Math.max(max, this.lengthOf(first + s) + count), 0);
    if (longest > contextTokens) {
      throw new Error(`KV arena: ${longest} positions do not fit the context of ${contextTokens}`);
    }
    this.reserve(longest);
    const { arrays } = this.#memory;
    const S = present.length / (arrays.length * H * tokens * d);
    arrays.forEach((array, i) => {
      for (let s = 0; s < counts.length; s++) {
        const length = this.lengthOf(first + s);
        for (let h = 0; h < H; h++) {
          const from = ((i * S + begin + s) * H + h) * tokens * d;
          const to = this.#startOf(first + s, h) + length * d;
          const elements = counts[s] * d;
          // For one token a view costs more than the copy.
          if (elements > d) array.set(present.subarray(from, from + elements), to);
          else for (let e = 0; e < elements; e++) array[to + e] = present[from + e];
        }
      }
    });
    counts.forEach((count, s) => {
      this.#lengths[this.rowAt(first + s)] += count;
    });
  }

  /** A copy of a row's keys and values at positions [from, to), [2L, H, to − from, d], as `append` takes them. */
  read(row: number, from: number, to: number): Float32Array<ArrayBuffer> {
    const { heads: H, headWidth: d } = this.#shape;
    const elements = (to - from) * d;
    const copy = new Float32Array(this.#memory.arrays.length * H * elements);
    this.#memory.arrays.forEach((array, i) => {
      for (let h = 0; h < H; h++) {
        const start = this.#startOf(row, h) + from * d;
        copy.set(array.subarray(start, start + elements), (i * H + h) * elements);
      }
    });
    return copy;
  }

  /** States of a row at some positions, from the last array, [positions, D]. */
  states(row: number, positions: readonly number[]): Float32Array {
    const { heads: H, headWidth: d } = this.#shape;
    const source = this.#memory.arrays[this.#memory.arrays.length - 1];
    const copy = new Float32Array(positions.length * H * d);
    positions.forEach((position, x) => {
      for (let h = 0; h < H; h++) {
        const from = this.#startOf(row, h) + position * d;
        for (let e = 0; e < d; e++) copy[(x * H + h) * d + e] = source[from + e];
      }
    });
    return copy;
  }

  /** Moves rows together if a smaller P holds them with room to spare. */
  trim(): void {
    if (this.#rows > 0) this.#spread(Math.min(this.#positions, positionsFor(this.#longest / fullShare, this.#shape)));
  }

  /** Moves rows together as far as possible. */
  shrink(): void {
    this.#spread(Math.min(this.#positions, positionsFor(this.#longest, this.#shape)));
  }

  /** Copies its rows from one array to another. */
  copyRows(from: Float32Array, to: Float32Array): void {
    const { heads: H, headWidth: d } = this.#shape;
    for (let row = 0; row < this.#rows; row++) {
      for (let h = 0; h < H && this.#lengths[row] > 0; h++) {
        const start = this.#startOf(this.rowAt(row), h);
        to.set(from.subarray(start, start + this.#lengths[row] * d), start);
      }
    }
  }

  /** Where a row's head begins in each array, with room for P positions in every row. */
  #startOf(row: number, head = 0, P = this.#positions): number {
    const { heads: H, headWidth: d } = this.#shape;
    return (this.#side === "end" ? this.#memory.arrays[0].length : 0) + (row * H + head) * P * d;
  }

  /** Positions that the longest row holds or wants. */
  get #longest(): number {
    let longest = 0;
    for (let row = 0; row < this.#rows; row++) longest = Math.max(longest, this.#lengths[row], this.#wanted[row]);
    return longest;
  }

  /** Makes room for P positions in every row or, if memory does not suffice, for `least`. */
  #fit(P: number, least: number): void {
    const positions = this.#rows * P <= this.#memory.roomFor(this.#side) ? P : least;
    this.#memory.claimFor(this.#side, this.#rows * positions);
    this.#spread(positions);
  }

  /** Moves rows apart, or together, so that every row has P positions. */
  #spread(P: number): void {
    const { heads: H, headWidth: d } = this.#shape;
    const oldP = this.#positions;
    if (P === oldP) return;
    const rows = Array.from({ length: this.#rows }, (_, row) => row);
    const heads = Array.from({ length: H }, (_, head) => head);
    // The farthest move comes first when rows move apart, and last when they move together, so that none overwrites another.
    if (this.#side === "end") heads.reverse();
    if (P > oldP) for (const order of [rows, heads]) order.reverse();
    for (const array of this.#memory.arrays) {
      for (const row of rows) {
        const elements = this.#lengths[row] * d;
        for (const head of heads) {
          const from = this.#startOf(this.rowAt(row), head);
          array.copyWithin(this.#startOf(this.rowAt(row), head, P), from, from + elements);
        }
      }
    }
    this.#positions = P;
  }
}
