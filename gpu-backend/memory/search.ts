/**
 * Searches all keys of an open memory for those nearest to each state. The keys with the largest int8 dot products are candidates; of
 * these the ones with the largest exact cosines are kept. A state's result does not depend on the other states of the search.
 * Shapes: S states, D hidden, N keys.
 */
import type { Neighbours } from "../../shared/math/memory.ts";
import { blockKeys, type KeyBlock, openKeyBlock, writeQuery } from "../runtime/key-search.ts";
import { inverseLength, keyScale } from "./keys.ts";
import type { Memory } from "./memory.ts";
import { indexPassages, type PassageIndex } from "./retrieval.ts";

/** Number of candidates per neighbour that is kept. */
const candidatesPerNeighbour = 2;

export interface Found extends Neighbours {
  /** Index of each neighbour among the memory's keys. */
  positions: Int32Array;
}

export class MemorySearch {
  readonly memory: Memory;
  readonly #blocks: readonly KeyBlock[];
  readonly #hiddenSize: number;
  readonly #neighbours: number;
  #passages: Promise<PassageIndex> | null = null;

  private constructor(memory: Memory, blocks: readonly KeyBlock[], hiddenSize: number, neighbours: number) {
    this.memory = memory;
    this.#blocks = blocks;
    this.#hiddenSize = hiddenSize;
    this.#neighbours = neighbours;
  }

  /** Opens a session for each block of keys. */
  static async open(
    memory: Memory,
    { hiddenSize, neighbours, threads }: { hiddenSize: number; neighbours: number; threads: number },
  ): Promise<MemorySearch> {
    const blocks: KeyBlock[] = [];
    const best = candidatesPerNeighbour * neighbours;
    for (let start = 0; start < memory.keys.length; start += blockKeys * hiddenSize) {
      const keys = memory.keys.subarray(start, start + blockKeys * hiddenSize);
      blocks.push(await openKeyBlock(keys, { hiddenSize, best, threads }));
    }
    return new MemorySearch(memory, blocks, hiddenSize, neighbours);
  }

  /** The nearest keys of each state [D], nearest first; equally near keys in the order of their positions. */
  async nearest(states: readonly Float32Array[]): Promise<Found[]> {
    const D = this.#hiddenSize;
    const queries = new Uint8Array(states.length * D);
    states.forEach((state, s) => {
      writeQuery(state, queries.subarray(s * D, (s + 1) * D));
    });
    const results: Awaited<ReturnType<KeyBlock["search"]>>[] = [];
    for (const block of this.#blocks) results.push(await block.search(queries));
    return states.map((state, s) => this.#keepNearest(state, this.#candidatesOf(results, s)));
  }

  /** The memory's passages, which are computed at the first call. `textPieceOf` returns the bytes of a token. */
  passages(textPieceOf: (id: number) => Uint8Array): Promise<PassageIndex> {
    this.#passages ??= indexPassages(this.memory, textPieceOf);
    return this.#passages;
  }

  async release(): Promise<void> {
    for (const block of this.#blocks) await block.release();
  }

  /** Positions of the keys with the largest dot products with state s. */
  #candidatesOf(results: readonly Awaited<ReturnType<KeyBlock["search"]>>[], s: number): ArrayLike<number> {
    const count = candidatesPerNeighbour * this.#neighbours;
    const rows = results.map(({ dots, indices, best }) => ({
      dots: dots.subarray(s * best, (s + 1) * best),
      indices: indices.subarray(s * best, (s + 1) * best),
    }));
    if (rows.length === 1) return rows[0].indices;
    // Blocks are in the order of positions, and the sort is stable: equal dot products stay in that order.
    const found = rows.flatMap(({ dots, indices }, b) =>
      Array.from(dots, (dot, i) => ({ dot, position: b * blockKeys + indices[i] })),
    );
    const least = found.map(({ dot }) => dot).sort((a, b) => b - a)[Math.min(count, found.length) - 1];
    const best = found.filter(({ dot }) => dot >= least).sort((a, b) => b.dot - a.dot);
    return best.slice(0, count).map(({ position }) => position);
  }

  #keepNearest(state: Float32Array, positions: ArrayLike<number>): Found {
    const { keys, nextIds } = this.memory;
    const factor = inverseLength(state) / keyScale;
    const candidates: { position: number; cosine: number }[] = [];
    for (let i = 0; i < positions.length; i++) {
      const position = positions[i];
      candidates.push({ position, cosine: factor * dotOf(state, keys, position) });
    }
    candidates.sort((a, b) => b.cosine - a.cosine || a.position - b.position);
    const count = Math.min(candidates.length, this.#neighbours);
    const found = {
      cosines: new Float32Array(count),
      nextIds: new Int32Array(count),
      positions: new Int32Array(count),
    };
    for (let i = 0; i < count; i++) {
      const { position, cosine } = candidates[i];
      found.cosines[i] = cosine;
      found.nextIds[i] = nextIds[position];
      found.positions[i] = position;
    }
    return found;
  }
}

/** Dot product of a state [D] with a key, in double precision. It uses four sums, which a processor can add to in parallel. */
function dotOf(state: Float32Array, keys: Int8Array, position: number): number {
  const D = state.length;
  const start = position * D;
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  let i = 0;
  for (; i + 3 < D; i += 4) {
    a += state[i] * keys[start + i];
    b += state[i + 1] * keys[start + i + 1];
    c += state[i + 2] * keys[start + i + 2];
    d += state[i + 3] * keys[start + i + 3];
  }
  for (; i < D; i++) a += state[i] * keys[start + i];
  return a + b + c + d;
}
