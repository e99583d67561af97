/**
 * Assigns rows of the KV arena to sequences. Pure bookkeeping: it returns the moves that the arena then makes. Rows are dense,
 * decoding sequences first: [0, decoding) and [decoding, size), so that each phase of a step is fed one contiguous block.
 */

/** Row `from` goes to row `to`; with `swap` row `to` goes to `from`, else what `to` held is no longer needed. */
export interface Move {
  from: number;
  to: number;
  swap: boolean;
}

export class SlotTable<S> {
  readonly #capacity: number;
  readonly #rows: S[] = [];
  readonly #rowOf = new Map<S, number>();
  #decoding = 0;

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** Rows in use. */
  get size(): number {
    return this.#rows.length;
  }

  /** Decoding sequences, in the order of their rows, from row 0. */
  get decoding(): S[] {
    return this.#rows.slice(0, this.#decoding);
  }

  isDecoding(sequence: S): boolean {
    return this.#heldRow(sequence) < this.#decoding;
  }

  /** The row of a sequence; null if it has none. */
  rowOf(sequence: S): number | null {
    return this.#rowOf.get(sequence) ?? null;
  }

  /** Gives a sequence the next row, as prefilling, and returns it. */
  open(sequence: S): number {
    if (this.size === this.#capacity) throw new Error(`all ${this.#capacity} slots are taken`);
    if (this.#rowOf.has(sequence)) throw new Error("the sequence has a slot already");
    this.#place(sequence, this.size);
    return this.size - 1;
  }

  /** Makes a prefilling sequence a decoding one. */
  promote(sequence: S): Move[] {
    const row = this.#heldRow(sequence);
    if (row < this.#decoding) throw new Error("the sequence is decoding already");
    const target = this.#decoding++;
    if (row === target) return [];
    this.#place(this.#rows[target], row);
    this.#place(sequence, target);
    return [{ from: row, to: target, swap: true }];
  }

  /** Makes a decoding sequence a prefilling one, which the next decode pass leaves out. */
  demote(sequence: S): Move[] {
    const row = this.#heldRow(sequence);
    if (row >= this.#decoding) throw new Error("the sequence is not decoding");
    const target = --this.#decoding;
    if (row === target) return [];
    this.#place(this.#rows[target], row);
    this.#place(sequence, target);
    return [{ from: row, to: target, swap: true }];
  }

  /** Takes a sequence's row back; the last rows of its phase, and of the next, fill the hole. */
  release(sequence: S): Move[] {
    let hole = this.#heldRow(sequence);
    this.#rowOf.delete(sequence);
    const moves: Move[] = [];
    const fillFrom = (from: number) => {
      if (from === hole) return;
      this.#place(this.#rows[from], hole);
      moves.push({ from, to: hole, swap: false });
      hole = from;
    };
    if (hole < this.#decoding) fillFrom(--this.#decoding);
    fillFrom(this.size - 1);
    this.#rows.pop();
    return moves;
  }

  #place(sequence: S, row: number): void {
    this.#rows[row] = sequence;
    this.#rowOf.set(sequence, row);
  }

  #heldRow(sequence: S): number {
    const row = this.#rowOf.get(sequence);
    if (row === undefined) throw new Error("the sequence has no slot");
    return row;
  }
}
