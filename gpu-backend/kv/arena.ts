/**
 * Keys, values and states of the running sequences of one length class, in dense arrays [rows, H, P, d], of which each has its H
 * and d, so that a step is fed views without a copy. P has few sizes and follows the running sequences, because attention of a
 * decode step costs time over all P positions. Rows are 0, 1, 2, … from the start of the arrays, or -1, -2, -3, … from their
 * end: row r begins r × H × P × d after it. Not here: who has which row (slot-table.ts), how many may run (kv-budget.ts), and who owns the arrays
 * (kv-memory.ts).
 * Shapes: H heads, d floats of a head, P positions, S sequences, T tokens.
 */
import type { StepInput } from "../runtime/step.ts";
import { bytesPerPosition, positionsFor } from "./kv-budget.ts";
import { type KvArray, type KvCopy, KvMemory, type KvMemoryShape, type Side } from "./kv-memory.ts";
import type { Move } from "./slot-table.ts";

/** `trim` takes a smaller size only if the longest row fills at most this share of it, so that sizes do not alternate. */
const fullShare = 0.75;

export class KvArena {
  readonly #shape: KvMemoryShape;
  readonly #memory: KvMemory;
  readonly #side: Side;
  #positions: number; // P
  #rows = 0;
  /** Positions that hold keys and values, by the slot table's rows. */
  readonly #lengths: Int32Array;
  /** Positions that each row is expected to need, [rows]. */
  readonly #wanted: Int32Array;
  /** Buffer for the head that `follow` replaces, [contextTokens, d]. */
  readonly #replaced: Float32Array;

  constructor(shape: KvMemoryShape, memory = new KvMemory(shape), side: Side = "start") {
    this.#shape = shape;
    this.#memory = memory;
    this.#side = side;
    this.#lengths = new Int32Array(shape.maximumRows);
    this.#wanted = new Int32Array(shape.maximumRows);
    this.#replaced = new Float32Array(shape.contextTokens * Math.max(...shape.arrays.map(({ width }) => width)));
    this.#positions = positionsFor(0, shape);
    memory.join(this, side);
  }

  /** P, positions of each row: the `pastTokens` of the next `feed`. */
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
    for (const { from, to, swap } of moves) {
      this.#memory.arrays.forEach((array, i) => {
        const { heads: H, width: d } = this.#shape.arrays[i];
        // Positions past a row's length hold stale data and are not moved.
        const [moved, replaced] = [this.#lengths[from] * d, this.#lengths[to] * d];
        for (let h = 0; h < H; h++) {
          const [source, target] = [this.#startOf(i, this.rowAt(from), h), this.#startOf(i, this.rowAt(to), h)];
          if (swap) this.#replaced.set(array.subarray(target, target + replaced));
          array.copyWithin(target, source, source + moved);
          if (swap) array.set(this.#replaced.subarray(0, replaced), source);
        }
      });
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
    return {
      past: this.#memory.arrays.map((array, i) =>
        array.subarray(this.#startOf(i, first), this.#startOf(i, first + count)),
      ),
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
   * Appends a step's new keys and values, `fresh` of [S, H, T, d] for each array: the first `counts[s]` tokens of its sequence
   * `begin + s` to row `first + s`.
   */
  append(first: number, counts: readonly number[], fresh: KvCopy, tokens: number, begin = 0): void {
    const { contextTokens } = this.#shape;
    const longest = counts.reduce((max, count, s) => Math.max(max, this.lengthOf(first + s) + count), 0);
    if (longest > contextTokens) {
      throw new Error(`KV arena: ${longest} positions do not fit the context of ${contextTokens}`);
    }
    this.reserve(longest);
    this.#memory.arrays.forEach((array, i) => {
      const { heads: H, width: d } = this.#shape.arrays[i];
      const own = fresh[i];
      for (let s = 0; s < counts.length; s++) {
        const length = this.lengthOf(first + s);
        for (let h = 0; h < H; h++) {
          const from = ((begin + s) * H + h) * tokens * d;
          const to = this.#startOf(i, first + s, h) + length * d;
          const elements = counts[s] * d;
          // For one token a view costs more than the copy.
          if (elements > d) array.set(own.subarray(from, from + elements), to);
          else for (let e = 0; e < elements; e++) array[to + e] = own[from + e];
        }
      }
    });
    counts.forEach((count, s) => {
      this.#lengths[this.rowAt(first + s)] += count;
    });
  }

  /** A copy of a row's positions [from, to), as `append` takes it. */
  read(row: number, from: number, to: number): KvCopy {
    return this.#memory.arrays.map((array, i) => {
      const { heads: H, width: d, isInt8 } = this.#shape.arrays[i];
      const copy = new (isInt8 ? Int8Array : Float32Array)(H * (to - from) * d);
      for (let h = 0; h < H; h++) {
        const start = this.#startOf(i, row, h);
        copy.set(array.subarray(start + from * d, start + to * d), h * (to - from) * d);
      }
      return copy;
    });
  }

  /** The state at a position of a row, [D]: a view. */
  state(row: number, position: number): Float32Array {
    const last = this.#memory.arrays.length - 1;
    const { width: D } = this.#shape.arrays[last];
    const start = this.#startOf(last, row) + position * D;
    return this.#memory.arrays[last].subarray(start, start + D) as Float32Array;
  }

  /** Moves rows together if a smaller P holds them with room to spare. */
  trim(): void {
    if (this.#rows > 0) this.#spread(Math.min(this.#positions, positionsFor(this.#longest / fullShare, this.#shape)));
  }

  /** Moves rows together as far as possible. */
  shrink(): void {
    this.#spread(Math.min(this.#positions, positionsFor(this.#longest, this.#shape)));
  }

  /** Copies its rows of array i to another array. */
  copyRows(i: number, to: KvArray): void {
    const { heads: H, width: d } = this.#shape.arrays[i];
    for (let row = 0; row < this.#rows; row++) {
      for (let h = 0; h < H && this.#lengths[row] > 0; h++) {
        const start = this.#startOf(i, this.rowAt(row), h);
        to.set(this.#memory.arrays[i].subarray(start, start + this.#lengths[row] * d), start);
      }
    }
  }

  /** Where a row's head begins in array i, with room for P positions in every row. */
  #startOf(i: number, row: number, head = 0, P = this.#positions): number {
    const { heads: H, width: d } = this.#shape.arrays[i];
    return (this.#side === "end" ? this.#memory.arrays[i].length : 0) + (row * H + head) * P * d;
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
    const oldP = this.#positions;
    if (P === oldP) return;
    this.#memory.arrays.forEach((array, i) => {
      const { heads: H, width: d } = this.#shape.arrays[i];
      const rows = Array.from({ length: this.#rows }, (_, row) => row);
      const heads = Array.from({ length: H }, (_, head) => head);
      // The farthest move comes first when rows move apart, and last when they move together, so that none overwrites another.
      if (this.#side === "end") heads.reverse();
      if (P > oldP) for (const order of [rows, heads]) order.reverse();
      for (const row of rows) {
        const elements = this.#lengths[row] * d;
        for (const head of heads) {
          const from = this.#startOf(i, this.rowAt(row), head);
          array.copyWithin(this.#startOf(i, this.rowAt(row), head, P), from, from + elements);
        }
      }
    });
    this.#positions = P;
  }
}
