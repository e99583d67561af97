/**
 * Every row of an arena takes as many positions as the longest row. So rows are divided by length into two classes with an arena each, if
 * that saves more than the second class costs. Pure.
 */
import { powerOfTwo } from "../../shared/math/power-of-two.ts";
import type { KvFormat, ModelShape, StepRunner } from "../runtime/step.ts";

export interface KvShape {
  /** Arrays of each layer's keys, then values; for int8 their scales; last the states. `bytes`: of an element. */
  arrays: readonly { heads: number; width: number; bytes: 1 | 2 | 4 }[];
  contextTokens: number;
}

/** P is a multiple of this number. A row then fills whole vector registers, so that padding changes no sum. */
export const positionUnit = 64;
/** Cost of moving a position to the other class; attention to a position costs 1. Copying costs 4 and should pay off within 16 steps. */
const moveShare = 1 / 4;

const elementBytes = { fp32: 4, fp16: 2, int8: 1 } as const satisfies Record<KvFormat, number>;

export function kvShapeOf(
  { layers, kvHeads: heads, headWidth: width, hiddenSize, contextTokens }: ModelShape,
  format: KvFormat = "fp32",
): KvShape {
  const bytes = elementBytes[format];
  const pairs = Array.from({ length: 2 * layers }, () => ({ heads, width, bytes }));
  const scales = format === "int8" ? pairs.map(() => ({ heads, width: 1, bytes: 4 as const })) : [];
  return { arrays: [...pairs, ...scales, { heads: 1, width: hiddenSize, bytes: 4 }], contextTokens };
}

export function bytesPerPosition({ arrays }: KvShape): number {
  return arrays.reduce((sum, { heads, width, bytes }) => sum + heads * width * bytes, 0);
}

/** Rounds up to a multiple of an eighth of the next power of two, so that P changes rarely. */
export function positionsFor(longest: number, { contextTokens }: KvShape): number {
  if (longest >= contextTokens) return contextTokens;
  const unit = Math.max(positionUnit, powerOfTwo(longest, positionUnit) / 8);
  return Math.min(unit * Math.max(1, Math.ceil(longest / unit)), contextTokens);
}

/** Bytes of `leastRows` rows of the whole context, and of the row that a prefill runs on. Each has one position more. */
export function deviceContextBytes(shape: KvShape, leastRows: number): number {
  return (leastRows + 1) * (shape.contextTokens + 1) * bytesPerPosition(shape);
}

export interface RunningRow {
  /** Maximum positions after the next step. */
  positions: number;
  cachedTokens: number;
  /** null if the row is in no class yet. */
  isLong: boolean | null;
}

export class KvBudget {
  readonly #shape: KvShape;
  readonly #capacityPositions: number;
  /** Cost of a second class, in positions that attention reads in the same time. Infinity allows only one class. */
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

  /** Whether memory suffices with the best boundary between the classes. `parked` counts positions. */
  holds(lengths: readonly number[], parked: number): boolean {
    const sizes = lengths.map((length) => positionsFor(length, this.#shape));
    return this.#boundaries(sizes).some((boundary) => this.#fits(positionsOf(sizes, boundary), parked));
  }

  /** Returns the cheapest boundary that fits in memory. Rows that need more positions than the boundary are long. */
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

  /** Boundaries to try. The longest size makes all rows short, 0 makes all rows long. */
  #boundaries(sizes: readonly number[]): number[] {
    const longest = sizes.reduce((a, b) => Math.max(a, b), 0);
    return Number.isFinite(this.#classPositions) ? [...new Set([longest, 0, ...sizes])] : [longest];
  }

  #fits(positions: number, parked: number): boolean {
    return positions + parked <= this.#capacityPositions;
  }
}

/** Sizes up to `boundary` take `boundary` positions each. Larger sizes each take as many as the largest. */
function positionsOf(sizes: readonly number[], boundary: number): number {
  let [short, longest] = [0, 0];
  for (const size of sizes) {
    if (size <= boundary) short++;
    longest = Math.max(longest, size);
  }
  return short * boundary + (sizes.length - short) * longest;
}
