/**
 * Decides whether keys and values fit in memory, and which rows are in which length class. Pure.
 *
 * Every row of an arena takes as many positions, P, as the longest row, and attention reads all of them. So rows are divided by length into
 * two classes, each with its own arena, if that saves more than the second class costs.
 */
import { powerOfTwo } from "../../shared/math/power-of-two.ts";
import type { KvFormat, ModelShape, StepRunner } from "../runtime/step.ts";

export interface KvShape {
  /**
   * For each array, its heads, and the elements of a head for one position. The arrays are each layer's keys, then its values; if these are
   * int8, the scales of each; last the states, from which the head is computed. Without `isInt8` an array is float32.
   */
  arrays: readonly { heads: number; width: number; isInt8?: boolean }[];
  contextTokens: number;
}

/** P is a multiple of this number, so that a row fills whole vector registers: then padding does not change any sum. */
export const positionUnit = 64;
/**
 * Cost of moving one position to the other class. The unit is the cost of attention to one position in a step. Copying a position costs
 * four units and should pay off within 16 steps.
 */
const moveShare = 1 / 4;

export function kvShapeOf(
  { layers, kvHeads: heads, headWidth: width, hiddenSize, contextTokens }: ModelShape,
  format: KvFormat = "fp32",
): KvShape {
  const isInt8 = format === "int8";
  const pairs = Array.from({ length: 2 * layers }, () => ({ heads, width, isInt8 }));
  const scales = isInt8 ? pairs.map(() => ({ heads, width: 1 })) : [];
  return { arrays: [...pairs, ...scales, { heads: 1, width: hiddenSize }], contextTokens };
}

export function bytesPerPosition({ arrays }: KvShape): number {
  return arrays.reduce((sum, { heads, width, isInt8 }) => sum + heads * width * (isInt8 ? 1 : 4), 0);
}

/** P if the longest row has `longest` positions: a multiple of an eighth of the next power of two, so that P changes rarely. */
export function positionsFor(longest: number, { contextTokens }: KvShape): number {
  if (longest >= contextTokens) return contextTokens;
  const unit = Math.max(positionUnit, powerOfTwo(longest, positionUnit) / 8);
  return Math.min(unit * Math.max(1, Math.ceil(longest / unit)), contextTokens);
}

/** Bytes on a device of one sequence as long as the context, and of the row that a prefill runs on. Each has one position more. */
export function deviceContextBytes(shape: KvShape): number {
  return 2 * (shape.contextTokens + 1) * bytesPerPosition(shape);
}

export interface RunningRow {
  /** Maximum positions of the row after the next step. */
  positions: number;
  /** Positions that a move to the other class copies. */
  cachedTokens: number;
  /** Whether the row is in the long class now; null if it is in no class yet. */
  isLong: boolean | null;
}

export class KvBudget {
  readonly #shape: KvShape;
  readonly #capacityPositions: number;
  /** Cost of a second class for a step: how many positions attention reads in that time. Infinity if there may be only one class. */
  readonly #classPositions: number;

  /** Throws an Error if `maximumBytes` do not hold one sequence as long as the context. */
  constructor(shape: KvShape, maximumBytes: number, { classBytes }: Pick<StepRunner, "classBytes">) {
    this.#shape = shape;
    this.#capacityPositions = Math.floor(maximumBytes / bytesPerPosition(shape));
    this.#classPositions = classBytes / bytesPerPosition(shape);
    if (this.#capacityPositions >= shape.contextTokens) return;
    const needed = shape.contextTokens * bytesPerPosition(shape);
    throw new Error(
      `KV memory is ${maximumBytes} bytes; one sequence of ${shape.contextTokens} positions needs ${needed}`,
    );
  }

  /** Whether memory holds rows of these lengths and `parked` further positions, with the best boundary between the classes. */
  holds(lengths: readonly number[], parked: number): boolean {
    const sizes = lengths.map((length) => positionsFor(length, this.#shape));
    return this.#boundaries(sizes).some((boundary) => this.#fits(positionsOf(sizes, boundary), parked));
  }

  /** The boundary between the classes with the lowest cost that memory allows. Rows that need more positions than it are long. */
  boundaryFor(rows: readonly RunningRow[], parked: number): number {
    const sizes = rows.map(({ positions }) => positionsFor(positions, this.#shape));
    const boundaries = this.#boundaries(sizes);
    let [best, least] = [boundaries[0], Number.POSITIVE_INFINITY];
    for (const boundary of boundaries) {
      const positions = positionsOf(sizes, boundary);
      if (!this.#fits(positions, parked)) continue;
      const isSplit = sizes.some((size) => size > boundary) && sizes.some((size) => size <= boundary);
      let cost = positions + (isSplit ? this.#classPositions : 0);
      rows.forEach(({ isLong, cachedTokens }, i) => {
        if (isLong !== null && isLong !== sizes[i] > boundary) cost += moveShare * cachedTokens;
      });
      if (cost < least) [best, least] = [boundary, cost];
    }
    return best;
  }

  /** The boundaries to choose from: one that makes all rows short, one that makes all rows long, and each row's size. */
  #boundaries(sizes: readonly number[]): number[] {
    const longest = sizes.reduce((a, b) => Math.max(a, b), 0);
    return Number.isFinite(this.#classPositions) ? [...new Set([longest, 0, ...sizes])] : [longest];
  }

  #fits(positions: number, parked: number): boolean {
    return positions + parked <= this.#capacityPositions;
  }
}

/** Positions that rows of these sizes take. Rows of sizes up to `boundary` take `boundary` each, other rows as many as the largest size. */
function positionsOf(sizes: readonly number[], boundary: number): number {
  let [short, longest] = [0, 0];
  for (const size of sizes) {
    if (size <= boundary) short++;
    longest = Math.max(longest, size);
  }
  return short * boundary + (sizes.length - short) * longest;
}
