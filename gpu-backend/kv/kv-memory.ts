/**
 * The memory of two arenas: an array for each layer's keys and values, and one for states. One arena's rows grow up from the start of the
 * arrays, the other's down from the end. Parked rows lie between. The operating system provides memory only for pages that are written.
 */
import { bytesPerPosition, type KvShape } from "./kv-budget.ts";

export interface KvMemoryShape extends KvShape {
  maximumRows: number; // of each arena
  /** Maximum bytes of both arenas and the parked rows together. */
  maximumBytes: number;
}

interface Holder {
  readonly span: number;
  shrink(): void;
  copyRows(i: number, to: KvArray): void;
}

export type Side = "start" | "end";

/** Arrays [H, positions, d], one for each array of the memory. */
export type KvCopy = readonly KvArray[];

export type KvArray = Float32Array<ArrayBuffer> | Int8Array<ArrayBuffer>;

export interface ParkedKv {
  readonly positions: number;
  /** Keys and values of the row; null after the end of the step that parked the row. */
  copy: KvCopy | null;
  /** First position of the row in each array, valid once `copy` is null. */
  at: number;
}

/** Memory is released above this multiple of the used memory. Releasing copies all rows while sequences wait. */
const spareShare = 16;

/** Positions that are always allocated: 7.4 MB for SmolLM2's int8 keys and values. */
const usualPositions = 512;

export class KvMemory {
  /** Keys of layer l are at 2l, values at 2l + 1, states last. */
  readonly arrays: KvArray[];
  readonly #shape: KvMemoryShape;
  readonly #capacity: number;
  readonly #arenas = new Map<Side, Holder>();
  /** Number of written positions, counted from each side. Only written positions take memory. */
  #written: Record<Side, number> = { start: 0, end: 0 };
  /** In the order of the arrays. Rows parked in this step come last, because the arrays do not hold them yet. */
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

  get #free(): number {
    return this.#capacity - positionsOf(this.#parked) - this.#span;
  }

  roomFor(side: Side): number {
    return this.#free + this.#arenas.get(side)!.span;
  }

  /** Reserves positions. Throws an Error if there is no room. */
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

  /** Returns a parked row's arrays, and frees their memory. */
  restore(parked: ParkedKv): KvCopy {
    this.#parked = this.#parked.filter((one) => one !== parked);
    const { at, positions, copy } = parked;
    return copy ?? this.arrays.map((array, i) => array.slice(at * this.#width(i), (at + positions) * this.#width(i)));
  }

  /** Releases memory if far more is allocated than used. */
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
    const { bytes } = this.#shape.arrays[i];
    const maxByteLength = elements * bytes;
    // V8 maps resizable buffers itself. Any other buffer may have huge pages (config.ts), of which the first rows would take 2 MB.
    const buffer = new ArrayBuffer(maxByteLength, { maxByteLength });
    const made = bytes === 1 ? new Int8Array(buffer, 0, elements) : new Float32Array(buffer, 0, elements);
    return made.fill(0, 0, this.#readyPositions * width);
  }

  get #readyPositions(): number {
    return Math.min(this.#capacity, this.#shape.contextTokens, usualPositions);
  }

  #width(i: number): number {
    const { heads, width } = this.#shape.arrays[i];
    return heads * width;
  }

  get #kept(): ParkedKv[] {
    return this.#parked.filter(({ copy }) => !copy);
  }

  /** `spans` replaces the arenas' current spans. */
  #between(spans: Partial<Record<Side, number>> = {}): [from: number, to: number] {
    const spanOf = (side: Side) => spans[side] ?? this.#arenas.get(side)?.span ?? 0;
    return [spanOf("start"), this.#capacity - spanOf("end")];
  }

  /** Copies newly parked rows into the arrays. Packs older parked rows if necessary. */
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

  /** Moves parked rows together, between `from` and `to`, with at least `free` positions after them. */
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
    // No row overwrites another: rows that move down move in order, then rows that move up in reverse order.
    moves.filter(({ one, target }) => target < one.at).forEach(move);
    moves
      .filter(({ one, target }) => target > one.at)
      .toReversed()
      .forEach(move);
    if (kept.length > 0) this.#written.start = Math.max(this.#written.start, next);
  }

  /** Replaces the arrays. In new arrays, only pages in use take memory. */
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

  /** Bounded, because both sides may have written the same positions. */
  get #writtenPositions(): number {
    return Math.min(this.#capacity, this.#written.start + this.#written.end);
  }
}

/** Frees memory without the garbage collector. Other arrays of the buffer become empty. */
export function free({ buffer }: KvArray): void {
  if (!buffer.detached) buffer.transferToFixedLength(0);
}

function positionsOf(parked: readonly ParkedKv[]): number {
  return parked.reduce((sum, { positions }) => sum + positions, 0);
}

function endOf(kept: readonly ParkedKv[], otherwise: number): number {
  const last = kept.at(-1);
  return last ? last.at + last.positions : otherwise;
}

/** Leaves room on both sides, so that arenas can grow. */
function firstOf(from: number, to: number, positions: number): number {
  return from + Math.min(Math.floor((to - from - positions) / 2), from);
}
