/**
 * The memory that the arenas of an engine share: two arrays per layer, keys and values. The rows of one arena go up from their start,
 * those of the other down from their end, so that either takes what the other leaves without a copy; what is free between them holds
 * the copy that a prefill is fed. They are made once, as large as the bound: the system gives memory only to pages that are written.
 * Keys and values of parked rows are kept aside, within the same bound. It holds at the end of each step, but for the one array that
 * is being copied when the arrays are renewed.
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

/** Memory for so many times what is running may stay. To give the rest back, what is running is copied, and everybody waits. */
const spareShare = 16;

export class KvMemory {
  /** Names of the rows of all arenas. A name stands for one sequence's keys and values, wherever they are. */
  readonly names = new Set<number>();
  /** Keys at 2l, values at 2l + 1. */
  readonly arrays: Float32Array[];
  readonly #shape: KvMemoryShape;
  readonly #mostPositions: number;
  /** Of the arrays. */
  readonly #capacity: number;
  readonly #arenas = new Map<Side, Holder>();
  /** Positions from each side up to the farthest that was written. */
  #written: Record<Side, number> = { start: 0, end: 0 };
  #asidePositions = 0;
  #named = 0;

  constructor(shape: KvMemoryShape) {
    const { layers, heads, headWidth, contextTokens, maximumRows, maximumBytes = Number.POSITIVE_INFINITY } = shape;
    this.#shape = shape;
    this.#mostPositions = Math.floor(maximumBytes / bytesPerPosition(shape));
    this.#capacity = Math.min(this.#mostPositions, maximumRows * contextTokens);
    const elements = this.#capacity * heads * headWidth;
    this.arrays = Array.from({ length: 2 * layers }, () => new Float32Array(elements));
  }

  get bytes(): number {
    return (this.#writtenPositions + this.#asidePositions) * bytesPerPosition(this.#shape);
  }

  /** Of what is kept aside. */
  get asideBytes(): number {
    return this.#asidePositions * bytesPerPosition(this.#shape);
  }

  join(arena: Holder, side: Side): void {
    this.#arenas.set(side, arena);
  }

  newName(): number {
    return this.#named++;
  }

  /** Positions that are free between the arenas' rows. */
  get #free(): number {
    return Math.min(this.#capacity, this.#mostPositions - this.#asidePositions) - this.#span;
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
    this.#written[side] = Math.max(this.#written[side], positions);
  }

  /** Where so many positions are free in each array until the next claim, in elements; null where there are not. */
  freeAt(positions: number): number | null {
    const { heads, headWidth } = this.#shape;
    const taken = this.#arenas.get("start")?.span ?? 0;
    if (positions > this.#free) return null;
    this.#written.start = Math.max(this.#written.start, taken + positions);
    return taken * heads * headWidth;
  }

  putAside(positions: number): void {
    this.#asidePositions += positions;
  }

  takeBack(positions: number): void {
    this.#asidePositions -= positions;
  }

  /**
   * Gives back what the bound requires, and what is far more than is running; where nothing runs, all beyond one row as long as
   * the context.
   */
  trim(): void {
    const { contextTokens } = this.#shape;
    const kept = this.#span > 0 ? spareShare * Math.max(this.#span, contextTokens) : contextTokens;
    if (this.#writtenPositions <= Math.min(kept, this.#mostPositions - this.#asidePositions)) return;
    for (const arena of this.#arenas.values()) arena.shrink();
    this.#renew();
  }

  /** Replaces the arrays, so that only pages with what is running take memory. */
  #renew(): void {
    this.arrays.forEach((array, i) => {
      const made = new Float32Array(array.length);
      for (const arena of this.#arenas.values()) arena.copyRows(array, made);
      this.arrays[i] = made;
    });
    for (const [side, { span }] of this.#arenas) this.#written[side] = span;
  }

  get #span(): number {
    return this.#arenas.values().reduce((sum, { span }) => sum + span, 0);
  }

  /** Both sides may have written the same pages. */
  get #writtenPositions(): number {
    return Math.min(this.#capacity, this.#written.start + this.#written.end);
  }
}
