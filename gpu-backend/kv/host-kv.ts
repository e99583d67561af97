/**
 * Keys and values in the host's memory: gives each row of the engine a place in one of two length classes (kv-budget.ts), and
 * moves it to the other where that costs less.
 */
import type { Kv, KvBlock, KvStore } from "../runtime/model-runner.ts";
import type { StepRunner } from "../runtime/step.ts";
import { bytesPerPosition, KvBudget, kvShapeOf } from "./kv-budget.ts";
import { free, type KvCopy } from "./kv-memory.ts";
import { KvRows } from "./kv-rows.ts";

export class HostKv implements KvStore {
  readonly capacityBytes: number;
  readonly continuesChunks: boolean;
  readonly #budget: KvBudget;
  /** Where each row is. */
  readonly rows: KvRows<Row>;
  /** The end of a row that the last pass computed, as the graph gave it: it need not be copied. */
  #fresh: { row: Row; block: Block } | null = null;

  /** Throws an Error if `maximumBytes` do not hold one sequence as long as the context. */
  constructor({ config, classBytes, kvFormat }: StepRunner, options: { maximumRows: number; maximumBytes: number }) {
    // A token of the same chunk reads what others read of it later: the int8 value instead of its own.
    this.continuesChunks = kvFormat !== "int8";
    const shape = kvShapeOf(config, kvFormat);
    const { maximumRows } = options;
    // As much again as the rows can use is enough for parked ones.
    const usable = 2 * maximumRows * shape.contextTokens * bytesPerPosition(shape);
    this.capacityBytes = Math.min(options.maximumBytes, usable);
    this.#budget = new KvBudget(shape, this.capacityBytes, { classBytes });
    this.rows = new KvRows({ ...shape, maximumRows, maximumBytes: this.capacityBytes });
  }

  get bytes(): number {
    return this.rows.bytes;
  }

  get usedBytes(): number {
    return this.rows.usedBytes;
  }

  holds(lengths: readonly number[], parked: number): boolean {
    return this.#budget.holds(lengths, parked);
  }

  open(wanted: number): Kv {
    return new Row(wanted);
  }

  close(kv: Kv): void {
    this.rows.drop(rowOf(kv));
  }

  park(kv: Kv): void {
    this.rows.park(rowOf(kv));
  }

  place(rows: readonly { kv: Kv; positions: number }[]): void {
    const running = rows.map(({ kv, positions }) => {
      const lengthClass = this.rows.classOf(rowOf(kv));
      return { row: rowOf(kv), positions, cachedTokens: kv.positions, isLong: lengthClass && lengthClass === "long" };
    });
    const resumed = running.filter(({ row }) => this.rows.isParked(row));
    const parked = this.rows.parkedPositions - resumed.reduce((sum, { row }) => sum + row.positions, 0);
    const boundary = this.#budget.boundaryFor(running, parked);
    // All leave before the first arrives, so that memory holds none twice.
    for (const { row, positions, isLong } of running) {
      if (isLong !== null && isLong !== positions > boundary) this.rows.park(row);
    }
    for (const { row, positions } of running) {
      const lengthClass = positions > boundary ? "long" : "short";
      if (this.rows.isParked(row)) this.rows.resume(row, lengthClass);
      else if (this.rows.classOf(row) === null) this.rows.open(row, lengthClass, row.wanted);
    }
  }

  copy(kv: Kv, from: number, to: number): KvBlock {
    const fresh = this.#fresh;
    if (fresh?.row !== kv || kv.positions !== to || fresh.block.positions !== to - from) {
      return new Block(this.rows.read(rowOf(kv), from, to), to - from);
    }
    this.#fresh = null;
    return fresh.block;
  }

  state(kv: Kv, position: number): Float32Array {
    return this.rows.state(rowOf(kv), position);
  }

  write(kv: Kv, block: KvBlock, positions: number): void {
    const { arrays, positions: tokens } = block as Block;
    this.#append([rowOf(kv)], [positions], arrays, tokens);
  }

  trim(): void {
    this.rows.trim();
  }

  /** Appends what a pass gives, [S, H, T, d] for each array: the first `counts[s]` of T `tokens` of each row. Takes the arrays. */
  append(rows: readonly Row[], counts: readonly number[], fresh: KvCopy, tokens: number): void {
    this.#append(rows, counts, fresh, tokens);
    this.#fresh?.block.free();
    const block = new Block(fresh, tokens);
    const isWhole = rows.length === 1 && counts[0] === tokens;
    this.#fresh = isWhole ? { row: rows[0], block } : null;
    // Freed at once: memory that waits for the garbage collector makes the system clear new pages for each run.
    if (!isWhole) block.free();
  }

  #append(rows: readonly Row[], counts: readonly number[], fresh: KvCopy, tokens: number): void {
    this.rows.append(rows, counts, fresh, tokens);
    rows.forEach((row, s) => {
      row.positions += counts[s];
    });
  }
}

class Row implements Kv {
  positions = 0;
  readonly wanted: number;

  constructor(wanted: number) {
    this.wanted = wanted;
  }
}

class Block implements KvBlock {
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

export function rowOf(kv: Kv): Row {
  return kv as Row;
}
