/**
 * Keys and values of all running sequences: per layer two arrays [rows, H, P, d], dense, so that a step is fed views
 * of them and nothing is gathered. P and the row count come in few sizes and follow what is running, because attention
 * costs time over all P positions; a prefill, whose every token pays for them, is fed a shorter copy where that is
 * cheaper. Those of parked sequences lie aside, without padding. Who has which row is the slot table's business, and how
 * many may run is the KV budget's: within it, memory stays below its bound, but for the one array that is being copied
 * while sizes change.
 * Shapes: L layers, H heads, d head width, P positions, S sequences, T tokens.
 */
import { powerOfTwo } from "../../shared/math/power-of-two.ts";
import type { StepInput } from "../runtime/step.ts";
import { bytesPerPosition, type KvShape, positionsFor, positionUnit } from "./kv-budget.ts";
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
/** Memory for so many times what is running may stay: to give it back and take it again costs more than it is worth. */
const spareShare = 4;
/** To copy a position for a prefill costs what attention over it costs this many tokens. */
const copyTokens = 16;
/** Bound on such a copy; beyond it a prefill computes over all P positions. */
const tightBytes = 128 * 2 ** 20;

export class KvArena {
  readonly #shape: ArenaShape;
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
  #opened = 0;
  /** Keys and values of parked rows by name, each [2L, H, length, d]. */
  readonly #parked = new Map<number, { present: Float32Array; length: number }>();
  /** Of all rows and parked ones. */
  readonly #maximumPositions: number;
  /** What the copy for a prefill is written into. */
  #tight = new Float32Array(0);

  constructor(shape: ArenaShape) {
    this.#shape = shape;
    this.#lengths = new Int32Array(shape.maximumRows);
    this.#wanted = new Int32Array(shape.maximumRows);
    this.#maximumPositions = Math.floor((shape.maximumBytes ?? Number.POSITIVE_INFINITY) / bytesPerPosition(shape));
    this.#allocate(0, positionsFor(0, shape));
  }

  /** P of the next feed. */
  get positions(): number {
    return this.#positions;
  }

  get rows(): number {
    return this.#rows;
  }

  get bytes(): number {
    return (this.#capacity + this.#parkedPositions) * bytesPerPosition(this.#shape) + this.#tight.byteLength;
  }

  /** Keys and values that are there, of all rows and parked ones. */
  get usedBytes(): number {
    const positions = this.#lengths.subarray(0, this.#rows).reduce((sum, length) => sum + length, 0);
    return (positions + this.#parkedPositions) * bytesPerPosition(this.#shape);
  }

  lengthOf(row: number): number {
    return this.#lengths[row];
  }

  /** Starts the row after the last one, empty. It will soon hold so many positions: room for them is made at once. */
  open(wanted = 0): void {
    this.#openAs(this.#opened++, wanted);
  }

  /** Closes a row, as the moves of its release say, and puts what it holds aside. Returns the name to resume it by. */
  park(row: number, moves: readonly Move[]): number {
    const name = this.#names[row];
    const length = this.#lengths[row];
    if (!this.#allows(this.#capacity, length + this.#tight.byteLength / bytesPerPosition(this.#shape)))
      this.#dropTight();
    this.#parked.set(name, { present: this.read(row, 0, length), length });
    this.close(moves);
    if (!this.#allows(this.#capacity)) this.#allocate(this.#rows, positionsFor(this.#longest, this.#shape));
    return name;
  }

  /** Starts the row after the last one with what was put aside under that name. */
  resume(name: number): void {
    const { present, length } = this.#takeParked(name);
    this.#openAs(name, length);
    this.append(this.#rows - 1, [length], present, length);
  }

  /** Forgets what was put aside under that name. */
  discard(name: number): void {
    this.#takeParked(name);
  }

  /** Moves rows as the slot table says. */
  follow(moves: readonly Move[]): void {
    const { heads: H, headWidth: d } = this.#shape;
    const headElements = this.#positions * d;
    for (const { from, to, swap } of moves) {
      // What lies beyond a row's length is nobody's.
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
        const replaced = ofRows[to];
        ofRows[to] = ofRows[from];
        if (swap) ofRows[from] = replaced;
      }
    }
  }

  /** Drops one row: follows the moves of its release, then lets go of the last row. */
  close(moves: readonly Move[]): void {
    this.follow(moves);
    this.#rows--;
    this.#names.length--;
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
    const isTight = isCheaper && this.#makeTight(count * tight);
    const rowElements = this.#shape.heads * this.#positions * this.#shape.headWidth;
    return {
      past: isTight
        ? this.#tightPast(first, count, tight)
        : this.#arrays.map((array) => array.subarray(first * rowElements, (first + count) * rowElements)),
      pastTokens: isTight ? tight : this.#positions,
      pastLengths,
      pastRows: { fed: this.#names.slice(first, first + count), kept: [...this.#names] },
    };
  }

  /** Makes room for rows of so many positions, once, before several appends. */
  reserve(positions: number): void {
    if (positions > this.#positions) this.#fit(positionsFor(positions, this.#shape));
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
    return this.#copyOf(this.#arrays.length - 1, row, positions);
  }

  /** The pointer's keys at a row's first `count` positions, from the last pair of arrays, [count, D]. */
  keys(row: number, count: number): { keys: Float32Array; D: number } {
    const positions = Array.from({ length: count }, (_, position) => position);
    const { heads, headWidth } = this.#shape;
    return { keys: this.#copyOf(this.#arrays.length - 2, row, positions), D: heads * headWidth };
  }

  /** What an array holds of a row at some positions, heads side by side: [positions, D]. */
  #copyOf(array: number, row: number, positions: readonly number[]): Float32Array {
    const { heads: H, headWidth: d } = this.#shape;
    const source = this.#arrays[array];
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
   * long as it was, and the copy for a prefill where both take no more than the context: new memory costs the next
   * sequence more than the copies out of the prefix cache.
   */
  trim(): void {
    if (this.#rows === 0 && this.bytes > this.#shape.contextTokens * bytesPerPosition(this.#shape)) this.#dropTight();
    const wanted = this.#rows > 0 ? positionsFor(this.#longest / fullShare, this.#shape) : this.#positions;
    const positions = Math.min(this.#positions, wanted);
    const rows = this.#rows > 1 ? powerOfTwo(this.#rows / fullShare, smallestRows) : 1;
    const kept = this.#rows > 0 ? spareShare * rows * positions : positions;
    if (this.#capacity > kept) this.#allocate(rows, positions);
    else if (positions < this.#positions) this.#spread(positions);
  }

  /** Positions that the longest row holds or wants. */
  get #longest(): number {
    let longest = 0;
    for (let row = 0; row < this.#rows; row++) longest = Math.max(longest, this.#lengths[row], this.#wanted[row]);
    return longest;
  }

  get #parkedPositions(): number {
    return this.#parked.values().reduce((sum, { length }) => sum + length, 0);
  }

  /** Whether memory holds arrays of so many positions, what is parked, and a copy of `tight` positions. */
  #allows(capacity: number, tight = 0): boolean {
    return capacity + this.#parkedPositions + tight <= this.#maximumPositions;
  }

  /** Its memory is somebody else's now. */
  #dropTight(): void {
    this.#tight = new Float32Array(0);
  }

  /** Makes room for a copy of so many positions. Returns whether memory holds it. */
  #makeTight(positions: number): boolean {
    const perPosition = bytesPerPosition(this.#shape);
    if (positions * perPosition <= this.#tight.byteLength) return true;
    const wanted = Math.min(powerOfTwo(positions, positionUnit), Math.floor(tightBytes / perPosition));
    if (wanted < positions || !this.#allows(this.#capacity, wanted)) return false;
    this.#tight = new Float32Array((wanted * perPosition) / Float32Array.BYTES_PER_ELEMENT);
    return true;
  }

  /** The past of rows [first, first + count) with room for P positions only, 2L × [count, H, P, d], until the next call. */
  #tightPast(first: number, count: number, P: number): Float32Array[] {
    const { heads: H, headWidth: d } = this.#shape;
    const elements = count * H * P * d;
    return this.#arrays.map((array, i) => {
      const copy = this.#tight.subarray(i * elements, (i + 1) * elements);
      for (let head = 0; head < count * H; head++) {
        const from = (first * H + head) * this.#positions * d;
        copy.set(array.subarray(from, from + P * d), head * P * d);
      }
      return copy;
    });
  }

  #openAs(name: number, wanted: number): void {
    if (this.#rows === this.#shape.maximumRows) throw new Error(`KV arena: all ${this.#rows} rows are taken`);
    this.#names.push(name);
    this.#lengths[this.#rows] = 0;
    this.#wanted[this.#rows++] = wanted;
    this.#fit(Math.max(this.#positions, positionsFor(wanted, this.#shape)));
  }

  #takeParked(name: number): { present: Float32Array; length: number } {
    const parked = this.#parked.get(name);
    if (!parked) throw new Error(`KV arena: no parked row ${name}`);
    this.#parked.delete(name);
    return parked;
  }

  /** Makes room for P positions in every row; where memory does not hold that, for what the longest needs. */
  #fit(P: number): void {
    if (this.#rows * P <= this.#capacity) this.#spread(P);
    else if (this.#allows(this.#rows * P)) this.#allocate(this.#rows, P);
    else this.#allocate(this.#rows, positionsFor(this.#longest, this.#shape));
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

  /** Copies what is running into arrays with room for `rows` of P positions, and for more rows where there is memory. */
  #allocate(rows: number, P: number): void {
    const { layers, heads: H, headWidth: d, maximumRows } = this.#shape;
    const affordable = Math.floor((this.#maximumPositions - this.#parkedPositions) / P);
    const rowCapacity = Math.max(rows, Math.min(powerOfTwo(rows, smallestRows), maximumRows, affordable));
    const oldP = this.#positions;
    if (!this.#allows(rowCapacity * P, this.#tight.byteLength / bytesPerPosition(this.#shape))) this.#dropTight();
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
