/** Finds candidates by int8 dot products, then the nearest keys by exact cosines. Shapes: S states, D hidden, N keys. */
import type { Neighbours } from "../../shared/math/memory.ts";
import { blockKeys, type KeyBlock, openKeyBlock, writeQuery } from "../runtime/key-search.ts";
import { inverseLength, keyScale } from "./keys.ts";
import type { Memory } from "./memory.ts";
import { indexPassages, type PassageIndex } from "./retrieval.ts";

const candidatesPerNeighbour = 2;

export interface Found extends Neighbours {
  positions: Int32Array;
}

export type MemorySearch = Awaited<ReturnType<typeof openMemorySearch>>;

export async function openMemorySearch(
  memory: Memory,
  { hiddenSize: D, neighbours, threads }: { hiddenSize: number; neighbours: number; threads: number },
) {
  const blocks: KeyBlock[] = [];
  const best = candidatesPerNeighbour * neighbours;
  for (let start = 0; start < memory.keys.length; start += blockKeys * D) {
    const keys = memory.keys.subarray(start, start + blockKeys * D);
    blocks.push(await openKeyBlock(keys, { hiddenSize: D, best, threads }));
  }
  let index: Promise<PassageIndex> | null = null;
  return {
    memory,
    /** The nearest keys of each state, nearest first, ties in order of position. */
    async nearest(states: readonly Float32Array[]): Promise<Found[]> {
      const queries = new Uint8Array(states.length * D);
      states.forEach((state, s) => {
        writeQuery(state, queries.subarray(s * D, (s + 1) * D));
      });
      const results: BlockResult[] = [];
      for (const block of blocks) results.push(await block.search(queries));
      return states.map((state, s) => keepNearest(memory, state, candidatesOf(results, s, best), neighbours));
    },
    /** The memory's passages are indexed at the first call. */
    passages(textPieceOf: (id: number) => Uint8Array): Promise<PassageIndex> {
      index ??= indexPassages(memory, textPieceOf);
      return index;
    },
    async release(): Promise<void> {
      for (const block of blocks) await block.release();
    },
  };
}

type BlockResult = Awaited<ReturnType<KeyBlock["search"]>>;

function candidatesOf(results: readonly BlockResult[], s: number, count: number): ArrayLike<number> {
  const rows = results.map(({ dots, indices, best }) => ({
    dots: dots.subarray(s * best, (s + 1) * best),
    indices: indices.subarray(s * best, (s + 1) * best),
  }));
  if (rows.length === 1) return rows[0].indices;
  // The sort is stable, so equal dot products stay in order of position.
  const found = rows.flatMap(({ dots, indices }, b) =>
    Array.from(dots, (dot, i) => ({ dot, position: b * blockKeys + indices[i] })),
  );
  const least = found.map(({ dot }) => dot).sort((a, b) => b - a)[Math.min(count, found.length) - 1];
  const best = found.filter(({ dot }) => dot >= least).sort((a, b) => b.dot - a.dot);
  return best.slice(0, count).map(({ position }) => position);
}

/** Keeps the nearest keys by exact cosines. */
function keepNearest(
  { keys, nextIds }: Memory,
  state: Float32Array,
  positions: ArrayLike<number>,
  neighbours: number,
): Found {
  const factor = inverseLength(state) / keyScale;
  const candidates = Array.from(positions, (position) => ({
    position,
    cosine: factor * dotOf(state, keys, position),
  }));
  candidates.sort((a, b) => b.cosine - a.cosine || a.position - b.position);
  const nearest = candidates.slice(0, neighbours);
  return {
    cosines: Float32Array.from(nearest, ({ cosine }) => cosine),
    nextIds: Int32Array.from(nearest, ({ position }) => nextIds[position]),
    positions: Int32Array.from(nearest, ({ position }) => position),
  };
}

/** Four sums, because a processor can add to them in parallel. */
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
