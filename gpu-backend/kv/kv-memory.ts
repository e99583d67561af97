/**
 * The memory that an engine's two arenas share: an array for each layer's keys and values, and one for states. One arena's rows grow up
 * from the start of the arrays, the other's down from the end, and parked rows lie between them. The arrays are allocated once, as large as
 * the bound; the operating system provides memory only for pages that are written. In addition, a step needs memory for copies of rows that
 * are parked or resumed, and for one array at a time while arrays are replaced.
 */
import { bytesPerPosition, type KvShape } from "./kv-budget.ts";

export interface KvMemoryShape extends KvShape {
  maximumRows: number; // of each arena
  /** Maximum bytes of both arenas and the parked rows together. */
  maximumBytes: number;
}

/** An arena, whose rows grow from one side of the arrays. */
interface Holder {
  /** Positions that the arena's rows take. */
  readonly span: number;
  /** Makes the span as small as possible. */
  shrink(): void;
  copyRows(i: number, to: KvArray): void;
}

/** The side of the arrays from which an arena's rows grow. */
export type Side = "start" | "end";

/** A copy of some positions of a row: [H, positions, d] for each array of the memory. */
export type KvCopy = readonly KvArray[];

export type KvArray = Float32Array<ArrayBuffer> | Int8Array<ArrayBuffer>;

export interface ParkedKv {
  readonly positions: number;
  /** Keys and values until the end of the step that parks the row; then null. */
  copy: KvCopy | null;
  /** First position of the row in each array, valid once `copy` is null. */
  at: number;
}

/** Memory is released only if it is more than this many times the used memory, since releasing copies all rows while sequences wait. */
const spareShare = 16;

/** Memory for this many positions, the length of a usual row, is always allocated: 7.4 MB for SmolLM2's int8 keys and values. */
const usualPositions = 512;

export class KvMemory {
  /** In the order of `KvShape.arrays`: keys of layer l at 2l, values at 2l + 1, states last. */
  readonly arrays: KvArray[];
  readonly #shape: KvMemoryShape;
  readonly #capacity: number;
  readonly #arenas = new Map<Side, Holder>();
  /** Positions that have been written, counted from each side. Only these take memory. */
  #written: Record<Side, number> = { start: 0, end: 0 };
  /** Ordered by position in the arrays. Rows that were parked in this step are not in the arrays yet and come last. */
  #parked: ParkedKv[] = [];

  constructor(shape: KvMemoryShape) {
    this.#shape = shape;
    this.#capacity = Math.floor(shape.maximumBytes / bytesPerPosition(shape));
    this.arrays = shape.arrays.map((_, i) => this.#newArray(i));
    this.#written.start = this.#readyPositions;
  }

  get bytes(): number {
    const copied = positionsOf(this.#parked.filter(({ copy }) => copy));
    return (this.#writtenPositions + copied) * bytesPerPosition(this.#shape);
  }

  get parkedPositions(): number {
    return positionsOf(this.#parked);
  }

  join(arena: Holder, side: Side): void {
    this.#arenas.set(side, arena);
  }

  /** Positions that neither running nor parked rows use. */
  get #free(): number {
    return this.#capacity - positionsOf(this.#parked) - this.#span;
  }

  /** Maximum positions that the arena on this side may take. */
  roomFor(side: Side): number {
    return this.#free + this.#arenas.get(side)!.span;
  }

  /** Reserves positions for the arena on a side. Throws an Error if there is no room. */
  claimFor(side: Side, positions: number): void {
    if (positions > this.roomFor(side)) this.#arenas.get(side === "start" ? "end" : "start")?.shrink();
    const room = this.roomFor(side);
    if (positions > room) throw new Error(`KV memory: rows take ${positions} positions, ${room} are free`);
    const [from, to] = this.#between({ [side]: positions });
    const kept = this.#kept;
    if (kept.length > 0 && (kept[0].at < from || endOf(kept, to) > to)) this.#pack(from, to);
    this.#written[side] = Math.max(this.#written[side], positions);
  }

  store(copy: KvCopy, positions: number): ParkedKv {
    const parked = { positions, copy, at: -1 };
    this.#parked.push(parked);
    return parked;
  }

  drop(parked: ParkedKv): void {
    this.#parked = this.#parked.filter((one) => one !== parked);
    parked.copy?.forEach(free);
  }

  /** Returns the keys and values of a parked row, and frees the row's memory. */
  restore(parked: ParkedKv): KvCopy {
    this.#parked = this.#parked.filter((one) => one !== parked);
    const { at, positions, copy } = parked;
    return copy ?? this.arrays.map((array, i) => array.slice(at * this.#width(i), (at + positions) * this.#width(i)));
  }

  /** Moves rows that were parked in this step into the arrays. Releases memory if far more is allocated than used. */
  trim(): void {
    this.#placeParked();
    const used = this.#span + positionsOf(this.#parked);
    const maxPositions = used > 0 ? spareShare * Math.max(used, this.#readyPositions) : this.#readyPositions;
    if (this.#writtenPositions <= maxPositions) return;
    for (const arena of this.#arenas.values()) arena.shrink();
    this.#pack(...this.#between());
    this.#renew();
  }

  #newArray(i: number): KvArray {
    const width = this.#width(i);
    const elements = this.#capacity * width;
    const { isInt8 } = this.#shape.arrays[i];
    const maxByteLength = elements * (isInt8 ? Int8Array : Float32Array).BYTES_PER_ELEMENT;
    // The buffer is resizable, because V8 itself maps such buffers. Other buffers come from an allocator that uses huge pages (config.ts),
    // so the first rows would take 2 MB of each array.
    const buffer = new ArrayBuffer(maxByteLength, { maxByteLength });
    const made = isInt8 ? new Int8Array(buffer, 0, elements) : new Float32Array(buffer, 0, elements);
    return made.fill(0, 0, this.#readyPositions * width);
  }

  get #readyPositions(): number {
    return Math.min(this.#capacity, this.#shape.contextTokens, usualPositions);
  }

  #width(i: number): number {
    const { heads, width } = this.#shape.arrays[i];
    return heads * width;
  }

  /** Parked rows that the arrays hold already. */
  get #kept(): ParkedKv[] {
    return this.#parked.filter(({ copy }) => !copy);
  }

  /** The positions between the arenas' rows. `spans` replaces the current spans of the arenas. */
  #between(spans: Partial<Record<Side, number>> = {}): [from: number, to: number] {
    const spanOf = (side: Side) => spans[side] ?? this.#arenas.get(side)?.span ?? 0;
    return [spanOf("start"), this.#capacity - spanOf("end")];
  }

  /** Copies newly parked rows into the arrays, after other parked rows. If there is no room after those, they are packed first. */
  #placeParked(): void {
    const added = this.#parked.filter(({ copy }) => copy);
    if (added.length === 0) return;
    const positions = positionsOf(added);
    const [from, to] = this.#between();
    if (endOf(this.#kept, from) + positions > to) this.#pack(from, to, positions);
    let at = endOf(this.#kept, firstOf(from, to, positions));
    for (const one of added) {
      one.copy?.forEach((own, i) => {
        this.arrays[i].set(own, at * this.#width(i));
        free(own);
      });
      Object.assign(one, { copy: null, at });
      at += one.positions;
    }
    this.#written.start = Math.max(this.#written.start, at);
  }

  /** Moves parked rows together, between positions `from` and `to`, with at least `free` positions after them. */
  #pack(from: number, to: number, free = 0): void {
    const kept = this.#kept;
    let next = firstOf(from, to, positionsOf(kept) + free);
    const moves = kept.map((one) => {
      const target = next;
      next += one.positions;
      return { one, target };
    });
    const move = ({ one, target }: (typeof moves)[number]) => {
      this.arrays.forEach((array, i) => {
        const width = this.#width(i);
        array.copyWithin(target * width, one.at * width, (one.at + one.positions) * width);
      });
      one.at = target;
    };
    // Rows that move down move first, in order; then rows that move up, in reverse. So no row overwrites one that still has to move.
    moves.filter(({ one, target }) => target < one.at).forEach(move);
    moves
      .filter(({ one, target }) => target > one.at)
      .toReversed()
      .forEach(move);
    if (kept.length > 0) this.#written.start = Math.max(this.#written.start, next);
  }

  /** Replaces the arrays by new ones in which only pages in use take memory. */
  #renew(): void {
    const kept = this.#kept;
    this.arrays.forEach((array, i) => {
      const [made, width] = [this.#newArray(i), this.#width(i)];
      for (const arena of this.#arenas.values()) arena.copyRows(i, made);
      for (const { at, positions } of kept) made.set(array.subarray(at * width, (at + positions) * width), at * width);
      this.arrays[i] = made;
      free(array);
    });
    for (const [side, { span }] of this.#arenas) this.#written[side] = span;
    this.#written.start = Math.max(this.#readyPositions, endOf(kept, this.#written.start));
  }

  get #span(): number {
    return this.#arenas.values().reduce((sum, { span }) => sum + span, 0);
  }

  /** Positions that take memory: at most the capacity, because both sides may have written the same positions. */
  get #writtenPositions(): number {
    return Math.min(this.#capacity, this.#written.start + this.#written.end);
  }
}

/** Frees an array's buffer at once, instead of waiting for the garbage collector. Other arrays that use the buffer become empty. */
export function free({ buffer }: KvArray): void {
  if (!buffer.detached) buffer.transferToFixedLength(0);
}

function positionsOf(parked: readonly ParkedKv[]): number {
  return parked.reduce((sum, { positions }) => sum + positions, 0);
}

/** End of the last parked row in the arrays; `otherwise` if there is none. */
function endOf(kept: readonly ParkedKv[], otherwise: number): number {
  const last = kept.at(-1);
  return last ? last.at + last.positions : otherwise;
}

/** Where `positions` consecutive positions start between two bounds, with room on both sides for arenas to grow. */
function firstOf(from: number, to: number, positions: number): number {
  return from + Math.min(Math.floor((to - from - positions) / 2), from);
}
