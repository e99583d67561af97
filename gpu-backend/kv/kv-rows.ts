/** Keys and values by sequence: which rows of the arena hold whose, and what is kept of parked ones. */
import { type ArenaShape, KvArena } from "./arena.ts";
import { SlotTable } from "./slot-table.ts";

export class KvRows<S> {
  readonly arena: KvArena;
  readonly #table: SlotTable<S>;
  /** The arena's name of what is kept of each parked sequence. */
  readonly #parked = new Map<S, { name: number; isDecoding: boolean }>();

  constructor(shape: ArenaShape) {
    this.arena = new KvArena(shape);
    this.#table = new SlotTable(shape.maximumRows);
  }

  /** The row of a sequence; throws an Error if it has none. */
  rowOf(sequence: S): number {
    const row = this.#table.rowOf(sequence);
    if (row === null) throw new Error("the sequence has no row");
    return row;
  }

  /** Number of parked sequences. */
  get parked(): number {
    return this.#parked.size;
  }

  isParked(sequence: S): boolean {
    return this.#parked.has(sequence);
  }

  /** Gives a sequence an empty row, as prefilling. It will soon hold `wanted` positions. */
  open(sequence: S, wanted: number): void {
    this.#table.open(sequence);
    this.arena.open(wanted);
  }

  /** Takes a sequence's row and keeps its keys and values. */
  park(sequence: S): void {
    const row = this.rowOf(sequence);
    const isDecoding = this.#table.decoding.includes(sequence);
    this.#parked.set(sequence, { name: this.arena.park(row, this.#table.release(sequence)), isDecoding });
  }

  /** Gives a parked sequence a row with what was kept. */
  resume(sequence: S): void {
    const { name, isDecoding } = this.#parked.get(sequence)!;
    this.#parked.delete(sequence);
    this.#table.open(sequence);
    this.arena.resume(name);
    if (isDecoding) this.promote(sequence);
  }

  /** Moves a sequence whose prompt is cached to the decoding rows. */
  promote(sequence: S): void {
    this.arena.follow(this.#table.promote(sequence));
  }

  /** Drops all that is kept of a sequence, if anything is. */
  drop(sequence: S): void {
    if (this.#table.rowOf(sequence) !== null) this.arena.close(this.#table.release(sequence));
    const parked = this.#parked.get(sequence);
    if (!parked) return;
    this.#parked.delete(sequence);
    this.arena.discard(parked.name);
  }

  /** These sequences in the order of their rows, which follow each other. */
  inOrder(sequences: readonly S[]): S[] {
    return sequences.toSorted((a, b) => this.rowOf(a) - this.rowOf(b));
  }

  /** What a step of T `tokens` reads for sequences in the order of their rows. */
  feed(sequences: readonly S[], tokens: number): ReturnType<KvArena["feed"]> {
    return this.arena.feed(this.#firstRow(sequences), sequences.length, tokens);
  }

  /** Appends a step's `present` [2L, S, H, T, d]: the first `counts[s]` of T `tokens` of each sequence. */
  append(sequences: readonly S[], counts: readonly number[], present: Float32Array, tokens: number): void {
    this.arena.append(this.#firstRow(sequences), counts, present, tokens);
  }

  #firstRow(sequences: readonly S[]): number {
    const first = this.rowOf(sequences[0]);
    sequences.forEach((sequence, s) => {
      const row = this.rowOf(sequence);
      if (row !== first + s) throw new Error(`sequence ${s} of a pass is in row ${row}, not in ${first + s}`);
    });
    return first;
  }
}
