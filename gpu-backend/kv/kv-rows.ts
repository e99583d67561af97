/** Keys and values by sequence: which rows of which arena belong to which sequence, and the parked ones. */
import type { StepInput } from "../runtime/step.ts";
import { KvArena } from "./arena.ts";
import { free, type KvCopy, KvMemory, type KvMemoryShape, type ParkedKv, type Side } from "./kv-memory.ts";
import { SlotTable } from "./slot-table.ts";

/** Rows of one class are in one arena, with the same room for positions (kv-budget.ts). */
export type LengthClass = "short" | "long";

interface Rows<S> {
  arena: KvArena;
  table: SlotTable<S>;
}

/** The sequences [begin, begin + count) of a pass: their rows follow each other in one arena. */
interface PassPart {
  arena: KvArena;
  firstRow: number;
  begin: number;
  count: number;
}

interface Parked {
  aside: ParkedKv;
  isDecoding: boolean;
}

export class KvRows<S> {
  readonly #memory: KvMemory;
  readonly #classes: Record<LengthClass, Rows<S>>;
  /** Where the row of each sequence is. */
  readonly #rowsOf = new Map<S, Rows<S>>();
  readonly #parked = new Map<S, Parked>();

  constructor(shape: KvMemoryShape) {
    this.#memory = new KvMemory(shape);
    const create = (side: Side) => ({
      arena: new KvArena(shape, this.#memory, side),
      table: new SlotTable<S>(shape.maximumRows),
    });
    this.#classes = { short: create("start"), long: create("end") };
  }

  /** Memory allocated for all rows and parked sequences. */
  get bytes(): number {
    return this.#memory.bytes;
  }

  /** Of the positions that hold any. */
  get usedBytes(): number {
    const { short, long } = this.#classes;
    return short.arena.usedBytes + long.arena.usedBytes + this.#memory.parkedBytes;
  }

  /** Number of parked sequences. */
  get parked(): number {
    return this.#parked.size;
  }

  /** Positions of parked sequences. */
  get parkedPositions(): number {
    return this.#parked.values().reduce((sum, { aside }) => sum + aside.positions, 0);
  }

  isParked(sequence: S): boolean {
    return this.#parked.has(sequence);
  }

  /** The class of a sequence's row; null if it has none. */
  classOf(sequence: S): LengthClass | null {
    const rows = this.#rowsOf.get(sequence);
    return rows ? (rows === this.#classes.long ? "long" : "short") : null;
  }

  /** A copy of a sequence's positions [from, to), as `append` takes it. */
  read(sequence: S, from: number, to: number): KvCopy {
    return this.#placeOf(sequence).arena.read(this.rowOf(sequence), from, to);
  }

  /** The state of a sequence at a position, [D]: a view. */
  state(sequence: S, position: number): Float32Array {
    return this.#placeOf(sequence).arena.state(this.rowOf(sequence), position);
  }

  /** The row of a sequence in its arena. */
  rowOf(sequence: S): number {
    const { arena, table } = this.#placeOf(sequence);
    return arena.rowAt(table.rowOf(sequence)!);
  }

  /** Gives a sequence an empty row, as prefilling. It will soon hold `wanted` positions. */
  open(sequence: S, lengthClass: LengthClass, wanted: number): void {
    this.#openIn(sequence, lengthClass).arena.open(wanted);
  }

  /** Frees a sequence's row and stores its keys and values. */
  park(sequence: S): void {
    const { arena, table } = this.#placeOf(sequence);
    const length = arena.lengthOf(this.rowOf(sequence));
    const aside = this.#memory.store(this.read(sequence, 0, length), length);
    this.#parked.set(sequence, { aside, isDecoding: table.isDecoding(sequence) });
    this.#close(sequence);
  }

  /** Gives a parked sequence a row with its keys and values. */
  resume(sequence: S, lengthClass: LengthClass): void {
    const { aside, isDecoding } = this.#parked.get(sequence)!;
    const { positions } = aside;
    const copy = this.#memory.restore(aside);
    this.#parked.delete(sequence);
    const { arena } = this.#openIn(sequence, lengthClass);
    arena.open(positions);
    arena.append(this.rowOf(sequence), [positions], copy, positions);
    copy.forEach(free);
    if (isDecoding) this.#promote([sequence]);
  }

  /** Makes these the decoding rows, which follow each other: others that decoded sit out, as those that wait for a grammar. */
  decodeOnly(sequences: readonly S[]): void {
    const wanted = new Set(sequences);
    for (const { arena, table } of Object.values(this.#classes)) {
      for (const other of table.decoding) if (!wanted.has(other)) arena.follow(table.demote(other));
    }
    this.#promote(sequences);
  }

  #promote(sequences: readonly S[]): void {
    for (const sequence of sequences) {
      const { arena, table } = this.#placeOf(sequence);
      if (!table.isDecoding(sequence)) arena.follow(table.promote(sequence));
    }
  }

  /** Frees the row or parked memory of a sequence, if any. */
  drop(sequence: S): void {
    if (this.#rowsOf.has(sequence)) this.#close(sequence);
    const parked = this.#parked.get(sequence);
    if (parked) this.#memory.drop(parked.aside);
    this.#parked.delete(sequence);
  }

  /** Sequences in the order of their rows, which follow each other, the short ones first. */
  inOrder(sequences: readonly S[]): S[] {
    return Object.values(this.#classes).flatMap((rows) =>
      sequences.filter((one) => this.#placeOf(one) === rows).sort((a, b) => this.rowOf(a) - this.rowOf(b)),
    );
  }

  /** Input of a step for sequences in the order of their rows, the short ones first. */
  feed(sequences: readonly S[]): ReturnType<KvArena["feed"]> & Pick<StepInput, "longPast"> {
    const [first, long] = this.#partsOf(sequences).map(({ arena, firstRow, count }) => arena.feed(firstRow, count));
    if (!long) return first;
    return {
      ...first,
      pastLengths: Int32Array.of(...first.pastLengths, ...long.pastLengths),
      longPast: { sequences: long.pastLengths.length, pastTokens: long.pastTokens, past: long.past },
    };
  }

  /** Appends what a step of the same sequences gives, [S, H, T, d] for each array: the first `counts[s]` of T `tokens` of each. */
  append(sequences: readonly S[], counts: readonly number[], fresh: KvCopy, tokens: number): void {
    for (const { arena, firstRow, begin, count } of this.#partsOf(sequences)) {
      arena.append(firstRow, counts.slice(begin, begin + count), fresh, tokens, begin);
    }
  }

  /** Releases memory that is not needed soon. */
  trim(): void {
    for (const { arena } of Object.values(this.#classes)) arena.trim();
    this.#memory.trim();
  }

  #placeOf(sequence: S): Rows<S> {
    const rows = this.#rowsOf.get(sequence);
    if (!rows) throw new Error("the sequence has no row");
    return rows;
  }

  #openIn(sequence: S, lengthClass: LengthClass): Rows<S> {
    const rows = this.#classes[lengthClass];
    rows.table.open(sequence);
    this.#rowsOf.set(sequence, rows);
    return rows;
  }

  #close(sequence: S): void {
    const { arena, table } = this.#placeOf(sequence);
    arena.close(table.release(sequence));
    this.#rowsOf.delete(sequence);
  }

  /** The sequences of a pass by arena. */
  #partsOf(sequences: readonly S[]): PassPart[] {
    const parts: PassPart[] = [];
    for (const [s, sequence] of sequences.entries()) {
      const [arena, row] = [this.#placeOf(sequence).arena, this.rowOf(sequence)];
      const part = parts.at(-1);
      if (part?.arena !== arena) {
        parts.push({ arena, firstRow: row, begin: s, count: 1 });
        continue;
      }
      if (row !== part.firstRow + part.count) throw new Error(`row ${row} of a pass does not follow the one before`);
      part.count++;
    }
    if (parts.length > 2) throw new Error("a pass has rows of one class before and after those of the other");
    return parts;
  }
}
