/**
 * How much memory keys and values take, how much they may take, and which rows are in which length class. Pure arithmetic; the
 * arenas lay them out.
 *
 * Every row of an arena has as many positions, P, as the longest needs: attention reads them all. So rows are divided by their
 * length into two classes, each with an arena of its own, where that saves more than the second class costs.
 */
import { powerOfTwo } from "../../shared/math/power-of-two.ts";
import type { Gpt2Config, StepRunner } from "../runtime/step.ts";

export interface KvShape {
  layers: number;
  heads: number;
  headWidth: number;
  contextTokens: number;
}

/** Positions come in multiples of it: whole vectors of the processor, so that padding changes no sum. */
export const positionUnit = 64;
/**
 * What it costs in each step to move one position of a row. A move copies it twice, which takes as long as attention over it in
 * four steps, and should pay within sixteen.
 */
const moveShare = 1 / 4;

/**
 * The shape of an engine's arenas. They have one pair more than there are layers: the pointer's keys, and states of which the
 * head can be computed again.
 */
export function arenaShapeOf({ layers, heads, hiddenSize, contextTokens }: Gpt2Config): KvShape {
  return { layers: layers + 1, heads, headWidth: hiddenSize / heads, contextTokens };
}

/** Keys and values of one position. */
export function bytesPerPosition({ layers, heads, headWidth }: KvShape): number {
  return 2 * layers * heads * headWidth * Float32Array.BYTES_PER_ELEMENT;
}

/**
 * P, the positions of every row where the longest needs so many, at most the context: eighths of the next power of two, as
 * every step computes over all of them and every size more is a copy.
 */
export function positionsFor(longest: number, { contextTokens }: KvShape): number {
  if (longest >= contextTokens) return contextTokens;
  const unit = Math.max(positionUnit, powerOfTwo(longest, positionUnit) / 8);
  return Math.min(unit * Math.max(1, Math.ceil(longest / unit)), contextTokens);
}

/** A row that a step runs. */
export interface RunningRow {
  /** Positions that it has at the end of the step, at most. */
  positions: number;
  /** Positions that a move copies. */
  cachedTokens: number;
  /** Its class; null if it is in none yet. */
  isLong: boolean | null;
  /** It has a mixture: beside one, each class decodes in a pass of its own. */
  isMixed: boolean;
}

export class KvBudget {
  readonly #shape: KvShape;
  /** In all. */
  readonly #positions: number;
  /** What a second class costs in one pass with the first, in positions of a row; Infinity for one class only. */
  readonly #classPositions: number;
  /** What it costs in a pass of its own. */
  readonly #passPositions: number;

  /** Throws an Error where `maximumBytes` do not hold one sequence as long as the context. */
  constructor(
    shape: KvShape,
    maximumBytes: number,
    { classBytes, passBytes }: Pick<StepRunner, "classBytes" | "passBytes">,
  ) {
    this.#shape = shape;
    this.#positions = Math.floor(maximumBytes / bytesPerPosition(shape));
    this.#classPositions = classBytes / bytesPerPosition(shape);
    this.#passPositions = passBytes / bytesPerPosition(shape);
    if (this.#positions >= shape.contextTokens) return;
    const needed = shape.contextTokens * bytesPerPosition(shape);
    throw new Error(
      `KV memory is ${maximumBytes} bytes; one sequence of ${shape.contextTokens} positions needs ${needed}`,
    );
  }

  /**
   * True if there is room for rows of these lengths, beside `parked` positions, in the classes that take least memory. Then there
   * is room for shorter ones, too.
   */
  holds(lengths: readonly number[], parked: number): boolean {
    const sizes = lengths.map((length) => positionsFor(length, this.#shape));
    return this.#boundaries(sizes).some((boundary) => this.#fits(positionsOf(sizes, boundary), parked));
  }

  /** The cheapest boundary of those that memory allows: rows that need more positions are long, the others short. */
  boundaryFor(rows: readonly RunningRow[], parked: number): number {
    const sizes = rows.map(({ positions }) => positionsFor(positions, this.#shape));
    const boundaries = this.#boundaries(sizes);
    const splitPositions = rows.some(({ isMixed }) => isMixed) ? this.#passPositions : this.#classPositions;
    let [best, least] = [boundaries[0], Number.POSITIVE_INFINITY];
    for (const boundary of boundaries) {
      const positions = positionsOf(sizes, boundary);
      if (!this.#fits(positions, parked)) continue;
      const isSplit = sizes.some((size) => size > boundary) && sizes.some((size) => size <= boundary);
      let cost = positions + (isSplit ? splitPositions : 0);
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
