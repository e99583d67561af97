/**
 * The memory that the arenas of an engine share: one bound on their arrays, on what is kept aside of parked rows, and on the copy
 * that a prefill is fed; it holds but for the one array that is being copied while sizes change.
 */
import { powerOfTwo } from "../../shared/math/power-of-two.ts";
import { bytesPerPosition, type KvShape, positionUnit } from "./kv-budget.ts";

export interface KvMemoryShape extends KvShape {
  /** Where it allows for what runs, there is room to grow; absent: no bound. */
  maximumBytes?: number;
}

/** What the memory asks of an arena. */
interface Holder {
  /** Positions that its arrays have room for, over all rows. */
  readonly capacity: number;
  /** Gives back what its rows do not need. */
  shrink(): void;
}

/** Bound on the copy; beyond it a prefill computes over all P positions. */
const copyBytes = 128 * 2 ** 20;

export class KvMemory {
  /** Names of the rows of all arenas. A name stands for one sequence's keys and values, wherever they are. */
  readonly names = new Set<number>();
  readonly #bytesPerPosition: number;
  readonly #mostPositions: number;
  readonly #arenas: Holder[] = [];
  #asidePositions = 0;
  /** What the copy for a prefill is written into. */
  #copy = new Float32Array(0);
  #named = 0;

  constructor(shape: KvMemoryShape) {
    this.#bytesPerPosition = bytesPerPosition(shape);
    this.#mostPositions = Math.floor((shape.maximumBytes ?? Number.POSITIVE_INFINITY) / this.#bytesPerPosition);
  }

  get bytes(): number {
    return (this.#arrayPositions + this.#asidePositions) * this.#bytesPerPosition + this.#copy.byteLength;
  }

  /** Of what is kept aside. */
  get asideBytes(): number {
    return this.#asidePositions * this.#bytesPerPosition;
  }

  join(arena: Holder): void {
    this.#arenas.push(arena);
  }

  newName(): number {
    return this.#named++;
  }

  /** Positions that an arena's arrays may have, as much as the others have now. */
  roomFor(arena: Holder): number {
    return this.#mostPositions - this.#asidePositions - this.#arrayPositions + arena.capacity;
  }

  /** Makes the other arenas give back what they do not need. */
  reclaimFor(arena: Holder): void {
    for (const other of this.#arenas) if (other !== arena) other.shrink();
  }

  /** Drops the copy for a prefill unless there is room for it beside `more` positions. */
  claim(more: number): void {
    const most = this.#mostPositions * this.#bytesPerPosition;
    if (this.bytes + more * this.#bytesPerPosition > most) this.dropCopy();
  }

  /** Counts positions that are kept aside from now on. Once their row is closed, `settle` makes the room. */
  putAside(positions: number): void {
    this.claim(positions);
    this.#asidePositions += positions;
  }

  /** Makes all arenas give back what they do not need, where they have more than the bound allows. */
  settle(): void {
    if (this.#arrayPositions + this.#asidePositions <= this.#mostPositions) return;
    for (const arena of this.#arenas) arena.shrink();
  }

  takeBack(positions: number): void {
    this.#asidePositions -= positions;
  }

  /** Room for a copy of so many positions, until the next call; null if memory does not hold it. */
  copyOf(positions: number): Float32Array | null {
    if (positions * this.#bytesPerPosition <= this.#copy.byteLength) return this.#copy;
    const wanted = Math.min(powerOfTwo(positions, positionUnit), Math.floor(copyBytes / this.#bytesPerPosition));
    const isAllowed = this.#arrayPositions + this.#asidePositions + wanted <= this.#mostPositions;
    if (wanted < positions || !isAllowed) return null;
    this.#copy = new Float32Array((wanted * this.#bytesPerPosition) / Float32Array.BYTES_PER_ELEMENT);
    return this.#copy;
  }

  /** Its memory is somebody else's now. */
  dropCopy(): void {
    this.#copy = new Float32Array(0);
  }

  get #arrayPositions(): number {
    return this.#arenas.reduce((sum, { capacity }) => sum + capacity, 0);
  }
}
