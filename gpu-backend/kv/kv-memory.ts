/**
 * The memory that the arenas of an engine share: two arrays per layer, keys and values. The rows of one arena go up from their start,
 * those of the other down from their end, so that either takes what the other leaves without a copy. They are made once, as large as
 * the bound: the system gives memory only to pages that are written, which takes as long as the write itself, so room for one row as
 * long as the context is written before it is needed.
 * Keys and values of parked rows are between the arenas, too, and move out of the way where one grows. So parking never takes more
 * than the arrays. Beside them there are, within a step, copies of rows that are parked or resume in it, and one array more while the
 * arrays are renewed. What is replaced is freed at once, not when garbage is collected.
 */
import { bytesPerPosition, type KvShape } from "./kv-budget.ts";

export interface KvMemoryShape extends KvShape {
  /** Upper bound of rows, over all arenas. */
  maximumRows: number;
  /** Absent: no bound but the rows'. */
  maximumBytes?: number;
}

/** What the memory asks of an arena. */
interface Holder {
  /** Positions that its rows take. */
  readonly span: number;
  /** Makes its span as small as what it holds allows. */
  shrink(): void;
  copyRows(from: Float32Array, to: Float32Array): void;
}

/** Where an arena's first row is in the arrays. */
export type Side = "start" | "end";

/** Keys and values of a parked row, [2L, H, positions, d]. */
export interface Aside {
  readonly positions: number;
  /** Until the end of the step that parks it. */
  present: Float32Array<ArrayBuffer> | null;
  /** Then its first position in each array. */
  at: number;
}

/** Memory for so many times what is kept may stay. To give the rest back, what is kept is copied, and everybody waits. */
const spareShare = 16;

export class KvMemory {
  /** Names of the rows of all arenas. A name stands for one sequence's keys and values, wherever they are. */
  readonly names = new Set<number>();
  /** Keys at 2l, values at 2l + 1. */
  readonly arrays: Float32Array<ArrayBuffer>[];
  readonly #shape: KvMemoryShape;
  /** Positions of the arrays. */
  readonly #capacity: number;
  readonly #arenas = new Map<Side, Holder>();
  /** Positions from each side up to the farthest that was written. */
  #written: Record<Side, number> = { start: 0, end: 0 };
  /** In the order of their places; those that have none yet come last. */
  #aside: Aside[] = [];
  #named = 0;

  constructor(shape: KvMemoryShape) {
    const { layers, contextTokens, maximumRows, maximumBytes } = shape;
    this.#shape = shape;
    this.#capacity =
      maximumBytes === undefined ? maximumRows * contextTokens : Math.floor(maximumBytes / bytesPerPosition(shape));
    this.arrays = Array.from({ length: 2 * layers }, () => this.#newArray());
    this.#written.start = this.#readyPositions;
  }

  get bytes(): number {
    const copied = positionsOf(this.#aside.filter(({ present }) => present));
    return (this.#writtenPositions + copied) * bytesPerPosition(this.#shape);
  }

  /** Of what is kept aside. */
  get asideBytes(): number {
    return positionsOf(this.#aside) * bytesPerPosition(this.#shape);
  }

  join(arena: Holder, side: Side): void {
    this.#arenas.set(side, arena);
  }

  newName(): number {
    return this.#named++;
  }

  /** Positions that neither rows nor parked ones take. */
  get #free(): number {
    return this.#capacity - positionsOf(this.#aside) - this.#span;
  }

  /** Positions that the rows of the arena on a side may take, beside those of the other. */
  roomFor(side: Side): number {
    return this.#free + this.#arenas.get(side)!.span;
  }

  /** Lets the rows of the arena on a side take so many positions. Throws an Error where there is no room. */
  claimFor(side: Side, positions: number): void {
    if (positions > this.roomFor(side)) this.#arenas.get(side === "start" ? "end" : "start")?.shrink();
    const room = this.roomFor(side);
    if (positions > room) throw new Error(`KV memory: rows take ${positions} positions, ${room} are free`);
    const [from, to] = this.#between({ [side]: positions });
    const kept = this.#kept;
    if (kept.length > 0 && (kept[0].at < from || endOf(kept, to) > to)) this.#pack(from, to);
    this.#written[side] = Math.max(this.#written[side], positions);
  }

  /** Keeps what a parked row held. */
  putAside(present: Float32Array<ArrayBuffer>, positions: number): Aside {
    const aside = { positions, present, at: -1 };
    this.#aside.push(aside);
    return aside;
  }

  /** Keeps it no longer. */
  drop(aside: Aside): void {
    this.#aside = this.#aside.filter((one) => one !== aside);
    if (aside.present) free(aside.present);
  }

  /** What was kept, which is kept no longer. */
  takeBack(aside: Aside): Float32Array<ArrayBuffer> {
    this.#aside = this.#aside.filter((one) => one !== aside);
    if (aside.present) return aside.present;
    const [start, elements] = [aside.at * this.#width, aside.positions * this.#width];
    const present = new Float32Array(this.arrays.length * elements);
    this.arrays.forEach((array, i) => {
      present.set(array.subarray(start, start + elements), i * elements);
    });
    return present;
  }

  /**
   * Gives parked rows of this step their places. Gives back what is far more than is kept; where nothing is, all beyond one row as
   * long as the context.
   */
  trim(): void {
    this.#placeAside();
    const used = this.#span + positionsOf(this.#aside);
    const most = used > 0 ? spareShare * Math.max(used, this.#readyPositions) : this.#readyPositions;
    if (this.#writtenPositions <= most) return;
    for (const arena of this.#arenas.values()) arena.shrink();
    this.#pack(...this.#between());
    this.#renew();
  }

  #newArray(): Float32Array<ArrayBuffer> {
    return new Float32Array(this.#capacity * this.#width).fill(0, 0, this.#readyPositions * this.#width);
  }

  /** Positions whose memory is always there. */
  get #readyPositions(): number {
    return Math.min(this.#capacity, this.#shape.contextTokens);
  }

  /** Elements of a position in each array. */
  get #width(): number {
    return this.#shape.heads * this.#shape.headWidth;
  }

  /** Those that have places. */
  get #kept(): Aside[] {
    return this.#aside.filter(({ present }) => !present);
  }

  /** The positions between the arenas' rows, where those of one may take more than they do. */
  #between(spans: Partial<Record<Side, number>> = {}): [from: number, to: number] {
    const spanOf = (side: Side) => spans[side] ?? this.#arenas.get(side)?.span ?? 0;
    return [spanOf("start"), this.#capacity - spanOf("end")];
  }

  /** Gives places to those that have none: after the others, which are moved together where there is no room after them. */
  #placeAside(): void {
    const added = this.#aside.filter(({ present }) => present);
    if (added.length === 0) return;
    const positions = positionsOf(added);
    const [from, to] = this.#between();
    if (endOf(this.#kept, from) + positions > to) this.#pack(from, to, positions);
    let at = endOf(this.#kept, firstOf(from, to, positions));
    for (const one of added) {
      const present = one.present!;
      const elements = one.positions * this.#width;
      this.arrays.forEach((array, i) => {
        array.set(present.subarray(i * elements, (i + 1) * elements), at * this.#width);
      });
      Object.assign(one, { present: null, at });
      free(present);
      at += one.positions;
    }
    this.#written.start = Math.max(this.#written.start, at);
  }

  /** Moves what is kept together, between two positions, with so many free after it. */
  #pack(from: number, to: number, free = 0): void {
    const kept = this.#kept;
    let next = firstOf(from, to, positionsOf(kept) + free);
    const moves = kept.map((one) => {
      const target = next;
      next += one.positions;
      return { one, target };
    });
    const move = ({ one, target }: (typeof moves)[number]) => {
      const [start, end] = [one.at * this.#width, (one.at + one.positions) * this.#width];
      for (const array of this.arrays) array.copyWithin(target * this.#width, start, end);
      one.at = target;
    };
    // In these orders none is written where another has still to move from.
    moves.filter(({ one, target }) => target < one.at).forEach(move);
    moves
      .filter(({ one, target }) => target > one.at)
      .toReversed()
      .forEach(move);
    if (kept.length > 0) this.#written.start = Math.max(this.#written.start, next);
  }

  /** Replaces the arrays, so that only pages with what is kept take memory. */
  #renew(): void {
    const kept = this.#kept;
    this.arrays.forEach((array, i) => {
      const made = this.#newArray();
      for (const arena of this.#arenas.values()) arena.copyRows(array, made);
      for (const { at, positions } of kept) {
        made.set(array.subarray(at * this.#width, (at + positions) * this.#width), at * this.#width);
      }
      this.arrays[i] = made;
      free(array);
    });
    for (const [side, { span }] of this.#arenas) this.#written[side] = span;
    this.#written.start = Math.max(this.#readyPositions, endOf(kept, this.#written.start));
  }

  get #span(): number {
    return this.#arenas.values().reduce((sum, { span }) => sum + span, 0);
  }

  /** Both sides may have written the same pages. */
  get #writtenPositions(): number {
    return Math.min(this.#capacity, this.#written.start + this.#written.end);
  }
}

/** Frees an array's memory, which would otherwise wait for the garbage collector. */
export function free(array: Float32Array<ArrayBuffer>): void {
  array.buffer.transfer(0);
}

function positionsOf(aside: readonly Aside[]): number {
  return aside.reduce((sum, { positions }) => sum + positions, 0);
}

/** Where what is kept ends; `otherwise` if nothing is. */
function endOf(kept: readonly Aside[], otherwise: number): number {
  const last = kept.at(-1);
  return last ? last.at + last.positions : otherwise;
}

/** Where so many positions begin that are kept between two, so that rows on either side can grow before they must move. */
function firstOf(from: number, to: number, positions: number): number {
  return from + Math.min(Math.floor((to - from - positions) / 2), from);
}
