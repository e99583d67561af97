/** How much memory keys and values take, and how much they may. Pure arithmetic; the arena lays them out. */
import { powerOfTwo } from "../../shared/math/power-of-two.ts";
import type { Gpt2Config } from "../runtime/step.ts";

export interface KvShape {
  layers: number;
  heads: number;
  headWidth: number;
  contextTokens: number;
}

/** Positions come in multiples of it: whole vectors of the processor, so that padding changes no sum. */
export const positionUnit = 64;

/**
 * The shape of an engine's arena. It has one pair more than there are layers: the pointer's keys, and states of which the head
 * can be computed again.
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

export class KvBudget {
  readonly #shape: KvShape;
  /** In all. */
  readonly #positions: number;

  /** Throws an Error where `maximumBytes` do not hold one sequence as long as the context. */
  constructor(shape: KvShape, maximumBytes: number) {
    this.#shape = shape;
    this.#positions = Math.floor(maximumBytes / bytesPerPosition(shape));
    if (this.#positions >= shape.contextTokens) return;
    const needed = shape.contextTokens * bytesPerPosition(shape);
    throw new Error(
      `KV memory is ${maximumBytes} bytes; one sequence of ${shape.contextTokens} positions needs ${needed}`,
    );
  }

  /** True if there is room for rows of these lengths, beside `parked` positions. */
  holds(lengths: readonly number[], parked: number): boolean {
    const longest = lengths.reduce((a, b) => Math.max(a, b), 0);
    return lengths.length * positionsFor(longest, this.#shape) + parked <= this.#positions;
  }
}
