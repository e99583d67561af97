/** Byte-pair merging in O(n log n), lowest rank first. Without a heap, 100,000 equal letters would take 10 s. */
import type { MergeTable } from "./merge-table.ts";

const none = -1;
/** Scratch arrays of up to this length are kept between calls. */
const scratchLength = 4096;

export class Merger {
  readonly #table: MergeTable;
  /** Token id that each merge makes, by rank, [M]. */
  readonly #mergedIds: Uint32Array;
  #ids = new Int32Array(0);
  /** Next and previous node of each node in a linked list, or `none`. */
  #next = new Int32Array(0);
  #previous = new Int32Array(0);
  /** Rank of the merge of node i with the next node, or `none`. Heap entries with another rank are stale. */
  #ranks = new Int32Array(0);
  /** Binary min-heap of merges, each as rank · 2³² + node. */
  #heap = new Float64Array(0);
  #heapSize = 0;

  constructor(table: MergeTable, mergedIds: Uint32Array) {
    this.#table = table;
    this.#mergedIds = mergedIds;
    this.#allocate(scratchLength);
  }

  merge(byteIds: ArrayLike<number>, length: number, out: number[]): void {
    if (length > scratchLength) this.#allocate(length);
    for (let i = 0; i < length; i++) {
      this.#ids[i] = byteIds[i];
      this.#next[i] = i + 1 < length ? i + 1 : none;
      this.#previous[i] = i - 1;
    }
    for (let i = 0; i < length; i++) this.#rank(i);
    while (this.#heapSize > 0) {
      const entry = this.#pop();
      const node = entry % 2 ** 32;
      const rank = (entry - node) / 2 ** 32;
      if (this.#ranks[node] !== rank) continue;
      const gone = this.#next[node];
      const after = this.#next[gone];
      this.#ids[node] = this.#mergedIds[rank];
      this.#ranks[gone] = none;
      this.#next[node] = after;
      if (after !== none) this.#previous[after] = node;
      this.#rank(node);
      if (this.#previous[node] !== none) this.#rank(this.#previous[node]);
    }
    for (let i = 0; i !== none; i = this.#next[i]) out.push(this.#ids[i]);
    if (length > scratchLength) this.#allocate(scratchLength);
  }

  #rank(node: number): void {
    const next = this.#next[node];
    const rank = next === none ? none : this.#table.rankOf(this.#ids[node], this.#ids[next]);
    this.#ranks[node] = rank;
    if (rank !== none) this.#push(rank * 2 ** 32 + node);
  }

  #push(entry: number): void {
    const heap = this.#heap;
    let i = this.#heapSize++;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (heap[parent] <= entry) break;
      heap[i] = heap[parent];
      i = parent;
    }
    heap[i] = entry;
  }

  #pop(): number {
    const heap = this.#heap;
    const lowest = heap[0];
    const size = --this.#heapSize;
    const moved = heap[size];
    let i = 0;
    for (let child = 1; child < size; child = 2 * i + 1) {
      if (child + 1 < size && heap[child + 1] < heap[child]) child++;
      if (moved <= heap[child]) break;
      heap[i] = heap[child];
      i = child;
    }
    heap[i] = moved;
    return lowest;
  }

  #allocate(length: number): void {
    this.#ids = new Int32Array(length);
    this.#next = new Int32Array(length);
    this.#previous = new Int32Array(length);
    this.#ranks = new Int32Array(length);
    // The heap starts with at most an entry per pair. Each merge removes an entry and adds at most two.
    this.#heap = new Float64Array(2 * length);
  }
}
