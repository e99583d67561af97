/**
 * Which adapter lives in which slot of the graph's pool. An adapter stays in its slot, ready for its next
 * sequence, until another needs the room: least recently used first out, never one that is pinned.
 * Not here: who may take a slot, and who waits for one (`../engine/pool-shares.ts`, `../engine/plan.ts`).
 */
import type { PoolShape } from "../runtime/adapter-graph.ts";
import type { AdapterPool } from "../runtime/step.ts";
import type { Adapter } from "./adapter.ts";
import { LruPolicy } from "./lru.ts";

export interface PoolStats {
  slots: number;
  /** Slots that hold an adapter. */
  resident: number;
  /** Slots whose adapter is applied to a running sequence. */
  pinned: number;
  /** Times an adapter made room for another. */
  evictions: number;
}

/** Own adapters are of rank 1. null without slots: they are made without directions then. */
export function poolOf(slots: number): PoolShape | null {
  return slots === 0 ? null : { slots, rank: 1 };
}

export class PoolSlots {
  readonly #pool: AdapterPool;
  /** Every adapter counts as one byte: the bound is the number of slots. */
  readonly #policy: LruPolicy;
  readonly #slotOf = new Map<string, number>();
  readonly #free: number[];
  #evictions = 0;

  constructor(pool: AdapterPool) {
    this.#pool = pool;
    this.#policy = new LruPolicy(pool.slots);
    this.#free = Array.from({ length: pool.slots }, (_, i) => pool.slots - 1 - i);
  }

  get stats(): PoolStats {
    const { slots } = this.#pool;
    return { slots, resident: this.#slotOf.size, pinned: this.#policy.pinnedBytes, evictions: this.#evictions };
  }

  /**
   * Pins an adapter in a slot, writing it there if it has none, until it is released as often as it was taken. Returns the slot, or
   * null if every slot is pinned by others. Throws an Error, and pins nothing, for an adapter without directions or of a higher
   * rank than the pool's. Must not be called while a step runs.
   */
  take(adapter: Adapter): number | null {
    const { hash } = adapter;
    const kept = this.#slotOf.get(hash);
    if (kept !== undefined) {
      this.#policy.pin(hash, 1);
      return kept;
    }
    const [a, b] = this.#rowsOf(adapter);
    if (this.#policy.pinnedBytes === this.#pool.slots) return null;
    this.#policy.add(hash, 1);
    this.#policy.pin(hash, 1);
    for (const dropped of this.#policy.evict()) {
      this.#free.push(this.#slotOf.get(dropped)!);
      this.#slotOf.delete(dropped);
      this.#evictions++;
    }
    const slot = this.#free.pop()!;
    try {
      this.#pool.write(slot, a, b);
    } catch (thrown) {
      this.#policy.unpin(hash);
      this.#policy.remove(hash);
      this.#free.push(slot);
      throw thrown;
    }
    this.#slotOf.set(hash, slot);
    return slot;
  }

  /** Undoes one `take`. */
  release(adapter: Adapter): void {
    this.#policy.unpin(adapter.hash);
  }

  /** A [R, D] and B [R, V] at the pool's R. */
  #rowsOf({ hash, directions }: Adapter): [Float32Array, Float32Array] {
    const { rank } = this.#pool;
    if (!directions) throw new Error(`adapter ${hash} has no directions of its own`);
    if (directions.rank > rank)
      throw new Error(`adapter ${hash} is of rank ${directions.rank}, a pool slot of ${rank}`);
    return [padded(directions.a, directions.rank, rank), padded(directions.b, directions.rank, rank)];
  }
}

/** The rows of a matrix and zero rows up to `rank`; the matrix itself where nothing is missing. */
function padded(matrix: Float32Array, rows: number, rank: number): Float32Array {
  if (rows === rank) return matrix;
  const result = new Float32Array((matrix.length / rows) * rank);
  result.set(matrix);
  return result;
}
