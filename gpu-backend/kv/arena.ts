/**
 * Keys and values of the running sequences of one length class: per layer two arrays [rows, H, P, d], dense, so that a step is fed
 * views of them and nothing is gathered. P and the row count come in few sizes and follow what is running, because attention costs
 * time over all P positions; a prefill, whose every token pays for them, is fed a shorter copy where that is cheaper. Who has which
 * row is the slot table's business, how many may run is the KV budget's, and what all arenas may take is the KV memory's.
 * Shapes: L layers, H heads, d head width, P positions, S sequences, T tokens.
 */
import { powerOfTwo } from "../../shared/math/power-of-two.ts";
import type { StepInput } from "../runtime/step.ts";
import { bytesPerPosition, positionsFor, positionUnit } from "./kv-budget.ts";
import { KvMemory, type KvMemoryShape } from "./kv-memory.ts";
import type { Move } from "./slot-table.ts";

export interface ArenaShape extends KvMemoryShape {
  /** Upper bound of rows. */
  maximumRows: number;
}

const smallestRows = 1;
/** A smaller size must have this much room to spare before the arena shrinks to it, or it would flap. */
const fullShare = 0.75;
/** Memory for so many times what is running may stay: to give it back and take it again costs more than it is worth. */
const spareShare = 4;
/** To copy a position for a prefill costs what attention over it costs this many tokens. */
const copyTokens = 16;

export class KvArena {
  readonly #shape: ArenaShape;
  readonly #memory: KvMemory;
  /** Keys at 2l, values at 2l + 1, each of [rows, H, P, d] and some room. */
  #arrays: Float32Array[] = [];
  /** Positions that the arrays have room for, over all rows. */
  #capacity = 0;
  #positions = 0; // P
  #rows = 0;
  /** Positions that hold keys and values, per row. */
  readonly #lengths: Int32Array;
  /** Positions that are wanted soon, per row. */
  readonly #wanted: Int32Array;
  /** What a row is called for as long as it lives, wherever it moves. */
  readonly #names: number[] = [];

  constructor(shape: ArenaShape, memory = new KvMemory(shape)) {
    this.#shape = shape;
    this.#memory = memory;
    this.#lengths = new Int32Array(shape.maximumRows);
    this.#wanted = new Int32Array(shape.maximumRows);
    this.#arrays = Array.from({ length: 2 * shape.layers }, () => new Float32Array(0));
    this.#positions = positionsFor(0, shape);
    memory.join(this);
  }

  /** P of the next feed. */
  get positions(): number {
    return this.#positions;
  }

  get rows(): number {
    return this.#rows;
  }

  /** Positions that the arrays have room for, over all rows. */
  get capacity(): number {
    return this.#capacity;
  }

  /** Keys and values that are there. */
  get usedBytes(): number {
    const positions = this.#lengths.subarray(0, this.#rows).reduce((sum, length) => sum + length, 0);
    return positions * bytesPerPosition(this.#shape);
  }

  lengthOf(row: number): number {
    return this.#lengths[row];
  }

  nameOf(row: number): number {
    return this.#names[row];
  }

  /**
   * Starts the row after the last one, empty. It will soon hold so many positions: room for them is made at once. `name` is what
   * its sequence's row was called before.
   */
  open(wanted = 0, name = this.#memory.newName()): void {
    if (this.#rows === this.#shape.maximumRows) throw new Error(`KV arena: all ${this.#rows} rows are taken`);
    this.#memory.names.add(name);
    this.#names.push(name);
    this.#lengths[this.#rows] = 0;
    this.#wanted[this.#rows++] = wanted;
    const least = positionsFor(this.#longest, this.#shape);
    this.#fit(Math.max(this.#positions, least), least);
  }

  /** Moves rows as the slot table says. */
  follow(moves: readonly Move[]): void {
    const { heads: H, headWidth: d } = this.#shape;
    const headElements = this.#positions * d;
    for (const { from, to, swap } of moves) {
      // Positions past a row's length hold stale data and are not moved.
      const [moved, replaced] = [this.#lengths[from] * d, this.#lengths[to] * d];
      for (const array of this.#arrays) {
        for (let h = 0; h < H; h++) {
          const [source, target] = [(from * H + h) * headElements, (to * H + h) * headElements];
          const kept = swap ? array.slice(target, target + replaced) : null;
          array.copyWithin(target, source, source + moved);
          if (kept) array.set(kept, source);
        }
      }
      for (const ofRows of [this.#lengths, this.#wanted, this.#names]) {
        [ofRows[to], ofRows[from]] = [ofRows[from], ofRows[to]];
      }
    }
  }

  /** Drops one row: follows the moves of its release, then lets go of the last row. */
  close(moves: readonly Move[]): void {
    this.follow(moves);
    this.#rows--;
    this.#memory.names.delete(this.#names.pop()!);
  }

  /** What a step of T `tokens` over rows [first, first + count) reads: `past` of [count, H, P, d], its P, lengths, names. */
  feed(
    first: number,
    count: number,
    tokens: number,
  ): Pick<StepInput, "past" | "pastTokens" | "pastLengths" | "pastRows"> {
    const pastLengths = this.#lengths.slice(first, first + count);
    const longest = pastLengths.reduce((a, b) => Math.max(a, b), 0);
    const tight = positionUnit * Math.ceil(longest / positionUnit);
    const isCheaper = tight * (tokens + copyTokens) < this.#positions * tokens;
    const copy = isCheaper ? this.#memory.copyOf(count * tight) : null;
    const rowElements = this.#shape.heads * this.#positions * this.#shape.headWidth;
    return {
      past: copy
        ? this.#tightPast(copy, first, count, tight)
        : this.#arrays.map((array) => array.subarray(first * rowElements, (first + count) * rowElements)),
      pastTokens: copy ? tight : this.#positions,
      pastLengths,
      pastRows: { fed: this.#names.slice(first, first + count), kept: [...this.#memory.names] },
    };
  }

  /** Makes room for rows of so many positions, once, before several appends. */
  reserve(positions: number): void {
    const P = positionsFor(positions, this.#shape);
    if (positions > this.#positions) this.#fit(P, P);
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

  /** States of a row at some positions, from the last pair of arrays, [positions, D]. */
  states(row: number, positions: readonly number[]): Float32Array {
    const { heads: H, headWidth: d } = this.#shape;
    const source = this.#arrays[this.#arrays.length - 1];
    const copy = new Float32Array(positions.length * H * d);
    positions.forEach((position, x) => {
      for (let h = 0; h < H; h++) {
        const from = ((row * H + h) * this.#positions + position) * d;
        for (let e = 0; e < d; e++) copy[(x * H + h) * d + e] = source[from + e];
      }
    });
    return copy;
  }

  /**
   * Gives memory back where a smaller size holds what is running with room to spare. Where nothing is, one row stays as
   * long as it was: new memory costs the next sequence more than the copies out of the prefix cache.
   */
  trim(): void {
    const wanted = this.#rows > 0 ? positionsFor(this.#longest / fullShare, this.#shape) : this.#positions;
    const positions = Math.min(this.#positions, wanted);
    const rows = this.#rows > 1 ? powerOfTwo(this.#rows / fullShare, smallestRows) : 1;
    const kept = this.#rows > 0 ? spareShare * rows * positions : positions;
    if (this.#capacity > kept) this.#allocate(rows, positions);
    else if (positions < this.#positions) this.#spread(positions);
  }

  /** Gives back all memory that what is running does not need. */
  shrink(): void {
    const positions = positionsFor(this.#longest, this.#shape);
    if (this.#capacity > this.#rows * positions) this.#allocate(this.#rows, positions, this.#rows);
  }

  /** Positions that the longest row holds or wants. */
  get #longest(): number {
    let longest = 0;
    for (let row = 0; row < this.#rows; row++) longest = Math.max(longest, this.#lengths[row], this.#wanted[row]);
    return longest;
  }

  /** The past of rows [first, first + count) with room for P positions only, 2L × [count, H, P, d], until the next call. */
  #tightPast(into: Float32Array, first: number, count: number, P: number): Float32Array[] {
    const { heads: H, headWidth: d } = this.#shape;
    const elements = count * H * P * d;
    return this.#arrays.map((array, i) => {
      const copy = into.subarray(i * elements, (i + 1) * elements);
      for (let head = 0; head < count * H; head++) {
        const from = (first * H + head) * this.#positions * d;
        copy.set(array.subarray(from, from + P * d), head * P * d);
      }
      return copy;
    });
  }

  /** Makes room for P positions in every row; where memory does not hold that, for as many as are needed. */
  #fit(P: number, least: number): void {
    if (this.#rows * P <= this.#capacity) {
      this.#spread(P);
      return;
    }
    const positions = this.#rows * P <= this.#memory.roomFor(this) ? P : least;
    if (this.#rows * positions > this.#memory.roomFor(this)) this.#memory.reclaimFor(this);
    this.#allocate(this.#rows, positions);
  }

  /** Moves what is running apart, or together, so that every row has P positions. */
  #spread(P: number): void {
    const { heads: H, headWidth: d } = this.#shape;
    const oldP = this.#positions;
    this.#positions = P;
    if (P === oldP) return;
    const heads = Array.from({ length: this.#rows * H }, (_, head) => head);
    // From the far end where they move apart, or one would overwrite the next.
    if (P > oldP) heads.reverse();
    for (const array of this.#arrays) {
      for (const head of heads) {
        const from = head * oldP * d;
        array.copyWithin(head * P * d, from, from + this.#lengths[Math.floor(head / H)] * d);
      }
    }
  }

  /**
   * Copies what is running into arrays with room for `rows` of P positions, and for more rows, up to `mostRows`, where there is
   * memory.
   */
  #allocate(rows: number, P: number, mostRows = this.#shape.maximumRows): void {
    const { layers, heads: H, headWidth: d } = this.#shape;
    const affordable = Math.floor(this.#memory.roomFor(this) / P);
    const rowCapacity = Math.max(rows, Math.min(powerOfTwo(rows, smallestRows), mostRows, affordable));
    const oldP = this.#positions;
    this.#memory.claim(rowCapacity * P - this.#capacity);
    for (let i = 0; i < 2 * layers; i++) {
      const made = new Float32Array(rowCapacity * H * P * d);
      const old = this.#arrays[i];
      // A row that has just been opened may lie beyond the old arrays; it holds nothing.
      for (let head = 0; head < this.#rows * H; head++) {
        const from = head * oldP * d;
        made.set(old.subarray(from, from + this.#lengths[Math.floor(head / H)] * d), head * P * d);
      }
      this.#arrays[i] = made;
    }
    this.#capacity = rowCapacity * P;
    this.#positions = P;
  }
}
