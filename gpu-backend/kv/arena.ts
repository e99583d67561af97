/**
 * Keys, values and states of the running sequences of one length class, in dense arrays [rows, H, P, d]. Attention reads all P positions
 * of every row, so P fits the longest row.
 *
 * Rows have places 0, 1, 2, … without gaps. Decoding rows have the first places, so that a decode pass takes one contiguous block. In one
 * arena, place p is row number p from the start of the arrays; in the other, row number -1 - p from the end.
 * Shapes: H heads, d floats of a head (both differ between arrays), P positions, S sequences, T tokens.
 */
import type { StepInput } from "../runtime/step.ts";
import { positionsFor } from "./kv-budget.ts";
import type { KvArray, KvCopy, KvMemory, KvMemoryShape, ParkedKv, Side } from "./kv-memory.ts";

/** A lower P must leave spare room, so that P does not alternate between two values. */
const fullShare = 0.75;

/** A sequence's place in an arena, or its parked values. A new row has neither. */
export class KvRow {
  positions = 0;
  /** Number of positions to have room for. */
  wanted: number;
  arena: KvArena | null = null;
  place = -1;
  parked: ParkedKv | null = null;

  constructor(wanted: number) {
    this.wanted = wanted;
  }
}

export class KvArena {
  readonly #shape: KvMemoryShape;
  readonly #memory: KvMemory;
  readonly #side: Side;
  /** P, the positions that each row has room for. */
  positions: number;
  readonly #rows: KvRow[] = [];
  /** Number of decoding rows. These have the first places. */
  #decoding = 0;
  /** Buffer for one head of a row, [contextTokens, d], while two rows are swapped. */
  readonly #replaced: Float32Array;

  constructor(shape: KvMemoryShape, memory: KvMemory, side: Side) {
    this.#shape = shape;
    this.#memory = memory;
    this.#side = side;
    this.#replaced = new Float32Array(shape.contextTokens * Math.max(...shape.arrays.map(({ width }) => width)));
    this.positions = positionsFor(0, shape);
    memory.join(this, side);
  }

  get span(): number {
    return this.#rows.length * this.positions;
  }

  get usedPositions(): number {
    return this.#rows.reduce((sum, { positions }) => sum + positions, 0);
  }

  /** The arena's rows among `rows`, in the order of memory. */
  inOrder(rows: ReadonlySet<KvRow>): KvRow[] {
    return this.#rows.filter((row) => rows.has(row)).sort((a, b) => this.#indexOf(a.place) - this.#indexOf(b.place));
  }

  /** Adds an empty row, not decoding, with room for `row.wanted` positions. */
  open(row: KvRow): void {
    const { maximumRows } = this.#shape;
    if (this.#rows.length === maximumRows) throw new Error(`KV arena: all ${maximumRows} rows are taken`);
    this.#put(row, this.#rows.length);
    row.arena = this;
    const least = positionsFor(this.#longest, this.#shape);
    this.#fit(this.#rows.length > 1 ? Math.max(this.positions, least) : least, least);
  }

  /** The last decoding row takes the place of a decoding row. The last row takes the place that is then empty. */
  close(row: KvRow): void {
    let gap = row.place;
    const fillFrom = (from: number) => {
      if (from === gap) return;
      this.#move(from, gap, false);
      this.#put(this.#rows[from], gap);
      gap = from;
    };
    if (gap < this.#decoding) fillFrom(--this.#decoding);
    fillFrom(this.#rows.length - 1);
    this.#rows.pop();
    row.arena = null;
  }

  /** Makes exactly the rows in `rows` decode. A row sits a step out if its grammar's mask is late. */
  decodeOnly(rows: ReadonlySet<KvRow>): void {
    for (const row of this.#rows.slice(0, this.#decoding)) if (!rows.has(row)) this.#swap(row, --this.#decoding);
    for (const row of rows) if (row.arena === this && row.place >= this.#decoding) this.#swap(row, this.#decoding++);
  }

  /** `rows` must be adjacent in memory. `past` is [S, H, P, d]. */
  feed(rows: readonly KvRow[]): Pick<StepInput, "past" | "pastTokens" | "pastLengths"> {
    const first = this.#firstOf(rows);
    return {
      past: this.#memory.arrays.map((array, i) =>
        array.subarray(this.#startOf(i, first), this.#startOf(i, first + rows.length)),
      ),
      pastTokens: this.positions,
      pastLengths: Int32Array.from(rows, ({ positions }) => positions),
    };
  }

  /** Gives every row room for `positions` positions. */
  reserve(positions: number): void {
    if (positions <= this.positions) return;
    const P = positionsFor(positions, this.#shape);
    this.#fit(P, P);
  }

  /**
   * `fresh` has arrays [S, H, T, d]. `rows[s]` gets the first `counts[s]` tokens of sequence `begin + s`. `rows` must be adjacent in
   * memory.
   */
  append(rows: readonly KvRow[], counts: readonly number[], fresh: KvCopy, tokens: number, begin = 0): void {
    const { contextTokens, arrays } = this.#shape;
    const longest = rows.reduce((max, { positions }, s) => Math.max(max, positions + counts[s]), 0);
    if (longest > contextTokens) {
      throw new Error(`KV arena: ${longest} positions do not fit the context of ${contextTokens}`);
    }
    this.reserve(longest);
    const first = this.#firstOf(rows);
    this.#memory.arrays.forEach((array, i) => {
      const { heads: H, width: d } = arrays[i];
      const own = fresh[i];
      for (let s = 0; s < rows.length; s++) {
        for (let h = 0; h < H; h++) {
          const from = ((begin + s) * H + h) * tokens * d;
          const to = this.#startOf(i, first + s, h) + rows[s].positions * d;
          const elements = counts[s] * d;
          // For a single token, making a view takes longer than copying the elements.
          if (elements > d) array.set(own.subarray(from, from + elements), to);
          else for (let e = 0; e < elements; e++) array[to + e] = own[from + e];
        }
      }
    });
    rows.forEach((row, s) => {
      row.positions += counts[s];
    });
  }

  /** Copies the positions [from, to), as arrays for `append`. */
  read(row: KvRow, from: number, to: number): KvCopy {
    return this.#memory.arrays.map((array, i) => {
      const { heads: H, width: d, bytes } = this.#shape.arrays[i];
      const copy = new (bytes === 1 ? Int8Array : Float32Array)(H * (to - from) * d);
      for (let h = 0; h < H; h++) {
        const start = this.#startOf(i, this.#indexOf(row.place), h);
        copy.set(array.subarray(start + from * d, start + to * d), h * (to - from) * d);
      }
      return copy;
    });
  }

  /** Returns a view of D floats. */
  state(row: KvRow, position: number): Float32Array {
    const last = this.#memory.arrays.length - 1;
    const { width: D } = this.#shape.arrays[last];
    const start = this.#startOf(last, this.#indexOf(row.place)) + position * D;
    return this.#memory.arrays[last].subarray(start, start + D) as Float32Array;
  }

  /** Moves rows together if a smaller P leaves spare room (`fullShare`). */
  trim(): void {
    if (this.#rows.length > 0) {
      this.#spread(Math.min(this.positions, positionsFor(this.#longest / fullShare, this.#shape)));
    }
  }

  /** Moves rows together, to the smallest P that the longest row allows. */
  shrink(): void {
    this.#spread(Math.min(this.positions, positionsFor(this.#longest, this.#shape)));
  }

  copyRows(i: number, to: KvArray): void {
    const { heads: H, width: d } = this.#shape.arrays[i];
    for (const row of this.#rows) {
      for (let h = 0; h < H && row.positions > 0; h++) {
        const start = this.#startOf(i, this.#indexOf(row.place), h);
        to.set(this.#memory.arrays[i].subarray(start, start + row.positions * d), start);
      }
    }
  }

  /** Row number of a place: 0, 1, … from the start of the arrays, or -1, -2, … from their end. */
  #indexOf(place: number): number {
    return this.#side === "end" ? -1 - place : place;
  }

  /** Row number of the first row. Throws an Error if the rows are not adjacent in memory. */
  #firstOf(rows: readonly KvRow[]): number {
    const first = this.#indexOf(rows[0].place);
    const gap = rows.findIndex((row, s) => row.arena !== this || this.#indexOf(row.place) !== first + s);
    if (gap < 0) return first;
    throw new Error(`KV arena: row ${this.#indexOf(rows[gap].place)} of a pass does not follow the one before`);
  }

  #put(row: KvRow, place: number): void {
    this.#rows[place] = row;
    row.place = place;
  }

  #swap(row: KvRow, place: number): void {
    const from = row.place;
    if (from === place) return;
    this.#move(from, place, true);
    this.#put(this.#rows[place], from);
    this.#put(row, place);
  }

  /** Copies the row at place `from` to place `to`. If `isSwap`, copies the other row back. */
  #move(from: number, to: number, isSwap: boolean): void {
    const lengths = [from, to].map((place) => this.#rows[place].positions);
    this.#memory.arrays.forEach((array, i) => {
      const { heads: H, width: d } = this.#shape.arrays[i];
      // Positions past a row's length hold stale data, so they are not copied.
      const [moved, replaced] = [lengths[0] * d, lengths[1] * d];
      for (let h = 0; h < H; h++) {
        const [source, target] = [this.#startOf(i, this.#indexOf(from), h), this.#startOf(i, this.#indexOf(to), h)];
        if (isSwap) this.#replaced.set(array.subarray(target, target + replaced));
        array.copyWithin(target, source, source + moved);
        if (isSwap) array.set(this.#replaced.subarray(0, replaced), source);
      }
    });
  }

  /** Index in array i at which a head of row number `index` begins. */
  #startOf(i: number, index: number, head = 0, P = this.positions): number {
    const { heads: H, width: d } = this.#shape.arrays[i];
    return (this.#side === "end" ? this.#memory.arrays[i].length : 0) + (index * H + head) * P * d;
  }

  get #longest(): number {
    return this.#rows.reduce((longest, { positions, wanted }) => Math.max(longest, positions, wanted), 0);
  }

  /** Gives every row P positions, or `least` positions if memory does not suffice for P. */
  #fit(P: number, least: number): void {
    const rows = this.#rows.length;
    const positions = rows * P <= this.#memory.roomFor(this.#side) ? P : least;
    this.#memory.claimFor(this.#side, rows * positions);
    this.#spread(positions);
  }

  #spread(P: number): void {
    const oldP = this.positions;
    if (P === oldP) return;
    this.#memory.arrays.forEach((array, i) => {
      const { heads: H, width: d } = this.#shape.arrays[i];
      const rows = [...this.#rows];
      const heads = Array.from({ length: H }, (_, head) => head);
      // No row overwrites another: the row that moves farthest moves first if rows move apart, last if they move together.
      if (this.#side === "end") heads.reverse();
      if (P > oldP) for (const order of [rows, heads]) order.reverse();
      for (const row of rows) {
        const elements = row.positions * d;
        for (const head of heads) {
          const from = this.#startOf(i, this.#indexOf(row.place), head);
          array.copyWithin(this.#startOf(i, this.#indexOf(row.place), head, P), from, from + elements);
        }
      }
    });
    this.positions = P;
  }
}
