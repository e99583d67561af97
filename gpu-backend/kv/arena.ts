/**
 * Keys and values of all running sequences: per layer two arrays [rows, H, P, d], dense, so that a step is fed views
 * of them and nothing is gathered. P and the row count come in power-of-two sizes and follow what is running, because
 * attention costs time over all P positions. Those of parked sequences lie aside, without padding. Who has which row is
 * the slot table's business, and how many may run is the KV budget's: within it, memory stays below its bound, but for
 * the one array that is being copied while sizes change.
 * Shapes: L layers, H heads, d head width, P positions, S sequences, T tokens.
 */
import { powerOfTwo } from "../../shared/math/power-of-two.ts";
import type { StepInput } from "../runtime/step.ts";
import { bytesPerPosition, type KvShape, positionsFor } from "./kv-budget.ts";
import type { Move } from "./slot-table.ts";

export interface ArenaShape extends KvShape {
  /** Upper bound of rows. */
  maximumRows: number;
  /** Where it allows for what runs, there is room to grow; absent: no bound. */
  maximumBytes?: number;
}

const smallestRows = 1;
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
  /** Keys and values of parked rows by name, each [2L, H, length, d]. */
  readonly #parked = new Map<number, { present: Float32Array; length: number }>();
  /** Of all rows and parked ones. */
  readonly #maximumPositions: number;

  constructor(shape: ArenaShape) {
    this.#shape = shape;
    this.#lengths = new Int32Array(shape.maximumRows);
    this.#maximumPositions = Math.floor((shape.maximumBytes ?? Number.POSITIVE_INFINITY) / bytesPerPosition(shape));
    this.#resize(0, 0);
  }

  /** P of the next feed. */
  get positions(): number {
    return this.#positions;
  }

  get rows(): number {
    return this.#rows;
  }

  get bytes(): number {
    return (this.#rowCapacity * this.#positions + this.#parkedPositions) * bytesPerPosition(this.#shape);
  }

  lengthOf(row: number): number {
    return this.#lengths[row];
  }

  /** Starts the row after the last one, empty. */
  open(): void {
    this.#openAs(this.#opened++);
  }

  /** Closes a row, as the moves of its release say, and puts what it holds aside. Returns the name to resume it by. */
  park(row: number, moves: readonly Move[]): number {
    const name = this.#names[row];
    const length = this.#lengths[row];
    this.#parked.set(name, { present: this.read(row, 0, length), length });
    this.close(moves);
    if (!this.#allows(this.#rowCapacity, this.#positions)) this.#resize(this.#rows, this.#longest);
    return name;
  }

  /** Starts the row after the last one with what was put aside under that name. */
  resume(name: number): void {
    const { present, length } = this.#takeParked(name);
    this.#openAs(name);
    this.append(this.#rows - 1, [length], present, length);
  }

  /** Forgets what was put aside under that name. */
  discard(name: number): void {
    this.#takeParked(name);
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
    if (positions <= this.#positions) return;
    const isRoom = this.#allows(this.#rowCapacity, positionsFor(positions, this.#shape));
    this.#resize(isRoom ? this.#rowCapacity : this.#rows, positions);
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

  /**
   * Gives memory back where a smaller size holds what is running with room to spare. Where nothing is, one row stays as
   * long as it was: new memory costs the next sequence more than the copies out of the prefix cache.
   */
  trim(): void {
    const wanted = this.#rows > 0 ? positionsFor(this.#longest / fullShare, this.#shape) : this.#positions;
    const positions = Math.min(this.#positions, wanted);
    const rows = Math.min(this.#rowCapacity, powerOfTwo(this.#rows / fullShare, smallestRows));
    if (positions < this.#positions || rows < this.#rowCapacity) this.#resize(rows, positions);
  }

  get #longest(): number {
    return this.#lengths.subarray(0, this.#rows).reduce((a, b) => Math.max(a, b), 0);
  }

  get #parkedPositions(): number {
    return this.#parked.values().reduce((sum, { length }) => sum + length, 0);
  }

  #allows(rows: number, positions: number): boolean {
    return rows * positions + this.#parkedPositions <= this.#maximumPositions;
  }

  #openAs(name: number): void {
    if (this.#rows === this.#shape.maximumRows) throw new Error(`KV arena: all ${this.#rows} rows are taken`);
    const longest = this.#longest;
    this.#names.push(name);
    this.#lengths[this.#rows++] = 0;
    if (this.#rows <= this.#rowCapacity) return;
    this.#resize(this.#rows, this.#allows(this.#rows, this.#positions) ? this.#positions : longest);
  }

  #takeParked(name: number): { present: Float32Array; length: number } {
    const parked = this.#parked.get(name);
    if (!parked) throw new Error(`KV arena: no parked row ${name}`);
    this.#parked.delete(name);
    return parked;
  }

  /** Copies what is running into arrays with room for `rows` and `positions`, and for more rows where there is memory. */
  #resize(rows: number, positions: number): void {
    const { layers, heads: H, headWidth: d, maximumRows } = this.#shape;
    const P = positionsFor(positions, this.#shape);
    const affordable = Math.floor((this.#maximumPositions - this.#parkedPositions) / P);
    const rowCapacity = Math.max(rows, Math.min(powerOfTwo(rows, smallestRows), maximumRows, affordable));
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
