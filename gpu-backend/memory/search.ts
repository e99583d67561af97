/**
 * The exact search of an open memory: of all its keys the nearest to each state. Candidates are the keys of the largest dot product
 * with the state as int8; of these the nearest by the cosine of the state itself are kept. All is computed row by row.
 * Shapes: S states, D hidden, N keys.
 */
import type { Neighbours } from "../../shared/math/memory.ts";
import { blockKeys, type KeyBlock, openKeyBlock, writeQuery } from "../runtime/key-search.ts";
import { inverseLength, keyScale } from "./keys.ts";
import type { Memory } from "./memory.ts";

/** Candidates for each neighbour that is kept. */
const candidatesPerNeighbour = 2;

/** Neighbours and the position of each among the memory's keys. */
export interface Found extends Neighbours {
  positions: Int32Array;
}

export class MemorySearch {
  readonly memory: Memory;
  readonly #blocks: readonly KeyBlock[];
  readonly #hiddenSize: number;
  readonly #neighbours: number;

  private constructor(memory: Memory, blocks: readonly KeyBlock[], hiddenSize: number, neighbours: number) {
    this.memory = memory;
    this.#blocks = blocks;
    this.#hiddenSize = hiddenSize;
    this.#neighbours = neighbours;
  }

  /** Opens sessions over all keys, block by block. */
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

  /** The nearest keys of each state [D], nearest first, equals by position. */
  async nearest(states: readonly Float32Array[]): Promise<Found[]> {
    const D = this.#hiddenSize;
    const queries = new Uint8Array(states.length * D);
    states.forEach((state, s) => {
      writeQuery(state, queries.subarray(s * D, (s + 1) * D));
    });
    const found: { dot: number; position: number }[][] = states.map(() => []);
    for (const [b, block] of this.#blocks.entries()) {
      const { dots, indices, best } = await block.search(queries);
      for (let i = 0; i < dots.length; i++) {
        found[Math.floor(i / best)].push({ dot: dots[i], position: b * blockKeys + indices[i] });
      }
    }
    return states.map((state, s) => this.#keepNearest(state, found[s]));
  }

  async release(): Promise<void> {
    for (const block of this.#blocks) await block.release();
  }

  #keepNearest(state: Float32Array, found: { dot: number; position: number }[]): Found {
    const { keys, nextIds } = this.memory;
    const D = this.#hiddenSize;
    const factor = inverseLength(state) / keyScale;
    const candidates = found
      .sort((a, b) => b.dot - a.dot || a.position - b.position)
      .slice(0, candidatesPerNeighbour * this.#neighbours)
      .map(({ position }) => {
        let dot = 0;
        for (let d = 0, at = position * D; d < D; d++, at++) dot += state[d] * keys[at];
        return { position, cosine: dot * factor };
      })
      .sort((a, b) => b.cosine - a.cosine || a.position - b.position)
      .slice(0, this.#neighbours);
    return {
      cosines: Float32Array.from(candidates, ({ cosine }) => cosine),
      nextIds: Int32Array.from(candidates, ({ position }) => nextIds[position]),
      positions: Int32Array.from(candidates, ({ position }) => position),
    };
  }
}
