/**
 * How much memory keys and values take and may take, and which rows are in which length class. Pure arithmetic.
 *
 * Every row of an arena has as many positions, P, as its longest row: attention reads them all. So rows are divided by length
 * into two classes, each with an arena of its own, if that saves more than the second class costs.
 */
import { powerOfTwo } from "../../shared/math/power-of-two.ts";
import type { KvFormat, ModelShape, StepRunner } from "../runtime/step.ts";

export interface KvArrayShape {
  heads: number;
  width: number;
  /** Absent: float32. */
  isInt8?: boolean;
}

export interface KvShape {
  /** Keys, then values, of each layer, and the states that the head is computed of: how many heads of how many elements a position has. */
  arrays: readonly KvArrayShape[];
  contextTokens: number;
}

/** Positions are multiples of it: whole vectors of the processor, so that padding changes no sum. */
export const positionUnit = 64;
/** Cost per step of moving one position of a row: two copies take as long as attention in four steps, and should pay within 16. */
const moveShare = 1 / 4;

/** The shape of a model's keys, values and states. */
export function kvShapeOf(
  { layers, kvHeads: heads, headWidth: width, hiddenSize, contextTokens }: ModelShape,
  format: KvFormat = "fp32",
): KvShape {
  const isInt8 = format === "int8";
  const pairs = Array.from({ length: 2 * layers }, () => ({ heads, width, isInt8 }));
  const scales = isInt8 ? pairs.map(() => ({ heads, width: 1 })) : [];
  return { arrays: [...pairs, ...scales, { heads: 1, width: hiddenSize }], contextTokens };
}

/** Keys, values and state of one position. */
export function bytesPerPosition({ arrays }: KvShape): number {
  return arrays.reduce((sum, { heads, width, isInt8 }) => sum + heads * width * (isInt8 ? 1 : 4), 0);
}

/** P for a longest row of `longest` positions: eighths of the next power of two, so that it fits closely and changes rarely. */
export function positionsFor(longest: number, { contextTokens }: KvShape): number {
  if (longest >= contextTokens) return contextTokens;
  const unit = Math.max(positionUnit, powerOfTwo(longest, positionUnit) / 8);
  return Math.min(unit * Math.max(1, Math.ceil(longest / unit)), contextTokens);
}

export interface RunningRow {
  /** Maximum positions at the end of the step. */
  positions: number;
  /** Positions that a move copies. */
  cachedTokens: number;
  /** Its class; null if it has none yet. */
  isLong: boolean | null;
}

export class KvBudget {
  readonly #shape: KvShape;
  /** Total positions. */
  readonly #positions: number;
  /** Cost of a second class, in positions of a row; Infinity for one class only. */
  readonly #classPositions: number;

  /** Throws an Error if `maximumBytes` do not hold one sequence as long as the context. */
  constructor(shape: KvShape, maximumBytes: number, { classBytes }: Pick<StepRunner, "classBytes">) {
    this.#shape = shape;
    this.#positions = Math.floor(maximumBytes / bytesPerPosition(shape));
    this.#classPositions = classBytes / bytesPerPosition(shape);
    if (this.#positions >= shape.contextTokens) return;
    const needed = shape.contextTokens * bytesPerPosition(shape);
    throw new Error(
      `KV memory is ${maximumBytes} bytes; one sequence of ${shape.contextTokens} positions needs ${needed}`,
    );
  }

  /** True if rows of these lengths, or shorter ones, and `parked` positions fit, in the classes that take least memory. */
  holds(lengths: readonly number[], parked: number): boolean {
    const sizes = lengths.map((length) => positionsFor(length, this.#shape));
    return this.#boundaries(sizes).some((boundary) => this.#fits(positionsOf(sizes, boundary), parked));
  }

  /** The cheapest boundary that memory allows: rows that need more positions are long, the others short. */
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

  /** All short first, then all long, then each division by size. */
  #boundaries(sizes: readonly number[]): number[] {
    const longest = sizes.reduce((a, b) => Math.max(a, b), 0);
    return Number.isFinite(this.#classPositions) ? [...new Set([longest, 0, ...sizes])] : [longest];
  }

  #fits(positions: number, parked: number): boolean {
    return positions + parked <= this.#positions;
  }
}

/** Positions of rows of these sizes in two classes: up to `boundary`, and longer. */
function positionsOf(sizes: readonly number[], boundary: number): number {
  let [short, longest] = [0, 0];
  for (const size of sizes) {
    if (size <= boundary) short++;
    longest = Math.max(longest, size);
  }
  return short * boundary + (sizes.length - short) * longest;
}
