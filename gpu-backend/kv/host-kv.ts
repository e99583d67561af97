/** Each running row is in one of two length classes with an arena each. A row changes its class if that lowers the cost (kv-budget.ts). */
import type { StepInput, StepRunner } from "../runtime/step.ts";
import { KvArena, KvRow } from "./arena.ts";
import { bytesPerPosition, KvBudget, kvShapeOf } from "./kv-budget.ts";
import { free, type KvCopy, KvMemory } from "./kv-memory.ts";
import type { KvBlock, KvPosition, KvStore } from "./runner.ts";

class HostBlock implements KvBlock {
  readonly arrays: KvCopy;
  readonly positions: number;
  readonly bytes: number;

  constructor(arrays: KvCopy, positions: number) {
    this.arrays = arrays;
    this.positions = positions;
    this.bytes = arrays.reduce((sum, { byteLength }) => sum + byteLength, 0);
  }

  free(): void {
    this.arrays.forEach(free);
  }
}

export class HostKv implements KvStore {
  readonly capacityBytes: number;
  readonly continuesChunks: boolean;
  readonly #budget: KvBudget;
  readonly #memory: KvMemory;
  readonly #positionBytes: number;
  readonly #short: KvArena;
  readonly #long: KvArena;
  /** Arrays that `copy` returns without copying, if the last pass had one row without padding. */
  #fresh: { row: KvRow; block: HostBlock } | null = null;

  /** Throws an Error if `maximumBytes` do not hold one sequence as long as the context. */
  constructor({ config, classBytes, kvFormat }: StepRunner, options: { maximumRows: number; maximumBytes: number }) {
    // A continued chunk would read its earlier tokens as int8, but a chunk computed at once reads floats.
    this.continuesChunks = kvFormat !== "int8";
    const shape = kvShapeOf(config, kvFormat);
    const { maximumRows } = options;
    this.#positionBytes = bytesPerPosition(shape);
    // Doubled, because parked rows need at most as much memory as running rows.
    const usable = 2 * maximumRows * shape.contextTokens * this.#positionBytes;
    this.capacityBytes = Math.min(options.maximumBytes, usable);
    this.#budget = new KvBudget(shape, this.capacityBytes, { classBytes });
    const memoryShape = { ...shape, maximumRows, maximumBytes: this.capacityBytes };
    this.#memory = new KvMemory(memoryShape);
    this.#short = new KvArena(memoryShape, this.#memory, "start");
    this.#long = new KvArena(memoryShape, this.#memory, "end");
  }

  get bytes(): number {
    return this.#memory.bytes;
  }

  get usedBytes(): number {
    const { parkedPositions } = this.#memory;
    return (this.#short.usedPositions + this.#long.usedPositions + parkedPositions) * this.#positionBytes;
  }

  holds(lengths: readonly number[], parked: readonly number[]): boolean {
    const positions = parked.reduce((sum, length) => sum + length, 0);
    return this.#budget.holds(lengths, positions);
  }

  /** Allocates no memory yet. */
  open(wanted: number): KvRow {
    return new KvRow(wanted);
  }

  close(row: KvRow): void {
    row.arena?.close(row);
    if (row.parked) this.#memory.drop(row.parked);
    row.parked = null;
  }

  park(row: KvRow): void {
    row.parked = this.#memory.store(this.#arenaOf(row).read(row, 0, row.positions), row.positions);
    row.arena?.close(row);
  }

  place(rows: readonly { kv: KvRow; positions: number }[]): void {
    const running = rows.map(({ kv: row, positions }) => {
      const isLong = row.arena && row.arena === this.#long;
      return { row, positions, cachedTokens: row.positions, isLong };
    });
    const resumed = running.reduce((sum, { row }) => sum + (row.parked?.positions ?? 0), 0);
    const boundary = this.#budget.boundaryFor(running, this.#memory.parkedPositions - resumed);
    // Rows that change their class are parked first, so that memory never holds a row twice.
    for (const { row, positions, isLong } of running) {
      if (isLong !== null && isLong !== positions > boundary) this.park(row);
    }
    for (const { row, positions } of running) {
      if (!row.arena) this.#enter(row, positions, positions > boundary ? this.#long : this.#short);
    }
  }

  copy(row: KvRow, from: number, to: number): HostBlock {
    const fresh = this.#fresh;
    if (fresh?.row !== row || row.positions !== to || fresh.block.positions !== to - from) {
      return new HostBlock(this.#arenaOf(row).read(row, from, to), to - from);
    }
    this.#fresh = null;
    return fresh.block;
  }

  async states(positions: readonly KvPosition[]): Promise<Float32Array[]> {
    return positions.map(({ kv, position }) => this.state(kv as KvRow, position));
  }

  /** Returns [D], valid until the next pass. */
  state(row: KvRow, position: number): Float32Array {
    return this.#arenaOf(row).state(row, position);
  }

  write(row: KvRow, { arrays, positions: tokens }: HostBlock, positions: number): void {
    this.#arenaOf(row).append([row], [positions], arrays, tokens);
  }

  trim(): void {
    this.#short.trim();
    this.#long.trim();
    this.#memory.trim();
  }

  /** Sorts the rows of a pass by their place in memory. For a decode pass, rows may move in memory. */
  inOrder(rows: readonly KvRow[], phase: "prefill" | "decode"): KvRow[] {
    const named = new Set(rows);
    for (const row of named) this.#arenaOf(row);
    return [this.#short, this.#long].flatMap((arena) => {
      if (phase === "decode" && named.size > 0) arena.decodeOnly(named);
      return arena.inOrder(named);
    });
  }

  /** `rows` must be in the order of `inOrder`. */
  feed(rows: readonly KvRow[]): ReturnType<KvArena["feed"]> & Pick<StepInput, "longPast"> {
    const [first, long] = this.#byArena(rows).map(({ arena, own }) => arena.feed(own));
    if (!long) return first;
    return {
      ...first,
      pastLengths: Int32Array.of(...first.pastLengths, ...long.pastLengths),
      longPast: { sequences: long.pastLengths.length, pastTokens: long.pastTokens, past: long.past },
    };
  }

  /** The past of `count` consecutive tokens of a row, one a row of the step (`drafts` of step.ts). */
  feedDrafts(row: KvRow, count: number): ReturnType<KvArena["feed"]> {
    const arena = this.#arenaOf(row);
    arena.reserve(row.positions + count);
    return { ...arena.feed([row]), pastLengths: Int32Array.from({ length: count }, (_, s) => row.positions + s) };
  }

  /** `fresh` has arrays [S, H, 1, d], of which the row gets the first `count` tokens. Takes ownership of `fresh`. */
  appendDrafts(row: KvRow, count: number, fresh: KvCopy): void {
    for (let s = 0; s < count; s++) this.#arenaOf(row).append([row], [1], fresh, 1, s);
    this.#fresh?.block.free();
    this.#fresh = null;
    fresh.forEach(free);
  }

  cut(row: KvRow, positions: number): void {
    row.positions = positions;
    // The row may have changed its class for the dropped positions. The budget no longer counts room for them.
    row.wanted = Math.min(row.wanted, positions);
  }

  /** `rows` must be in the order of `inOrder`. Row s gets the first `counts[s]` of its T tokens. Takes ownership of `fresh`. */
  append(rows: readonly KvRow[], counts: readonly number[], fresh: KvCopy, tokens: number): void {
    for (const { arena, own, begin } of this.#byArena(rows)) {
      arena.append(own, counts.slice(begin, begin + own.length), fresh, tokens, begin);
    }
    this.#fresh?.block.free();
    const block = new HostBlock(fresh, tokens);
    const isWhole = rows.length === 1 && counts[0] === tokens;
    this.#fresh = isWhole ? { row: rows[0], block } : null;
    // Garbage collection would be too late: the operating system would have to clear new pages for each run.
    if (!isWhole) block.free();
  }

  /** A parked row gets room for `wanted` positions, because the operator of a prompt's chunk needs room for the chunk. */
  #enter(row: KvRow, wanted: number, arena: KvArena): void {
    const { parked, positions } = row;
    const copy = parked && this.#memory.restore(parked);
    if (parked) Object.assign(row, { parked: null, positions: 0, wanted });
    arena.open(row);
    if (copy) arena.append([row], [positions], copy, positions);
    copy?.forEach(free);
  }

  #arenaOf({ arena }: KvRow): KvArena {
    if (!arena) throw new Error("the sequence has no row");
    return arena;
  }

  /** `begin` is the index in `rows` of the arena's first row. */
  #byArena(rows: readonly KvRow[]) {
    const parts = [this.#short, this.#long].map((arena) => ({ arena, own: rows.filter((row) => row.arena === arena) }));
    return parts
      .filter(({ own }) => own.length > 0)
      .map(({ arena, own }) => ({ arena, own, begin: rows.indexOf(own[0]) }));
  }
}
