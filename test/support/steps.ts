/** Builds steps row by row, and reads their results back row by row. */
import type { Bank, ModelShape, StepInput, StepOutput } from "../../gpu-backend/runtime/step.ts";

export interface StepRow {
  tokenIds: number[];
  gates: Float32Array;
  /** Keys and values of earlier tokens: 2L arrays of [H, pastLength, d], for L layers and H heads of width d. */
  past: Float32Array[];
  pastLength: number;
}

/** A right-padded batch with one head row per sequence, at the last token. */
export function stepOf(
  config: ModelShape,
  rows: StepRow[],
  options: { tokens?: number; pastTokens?: number } = {},
): StepInput {
  const { kvHeads: H, headWidth: d } = config;
  const S = rows.length;
  const T = options.tokens ?? Math.max(...rows.map((r) => r.tokenIds.length));
  const P = options.pastTokens ?? Math.max(...rows.map((r) => r.pastLength));
  const Q = rows[0].gates.length;
  const input: StepInput = {
    sequences: S,
    tokens: T,
    pastTokens: P,
    tokenIds: new Int32Array(S * T),
    positions: new Int32Array(S * T),
    pastLengths: Int32Array.from(rows, (r) => r.pastLength),
    past: Array.from({ length: 2 * config.layers }, () => new Float32Array(S * H * d * P)),
    headRows: Int32Array.from(rows, (r, s) => s * T + r.tokenIds.length - 1),
    gates: new Float32Array(S * Q),
    inverseTemperatures: new Float32Array(S).fill(1),
    targetIds: new Int32Array(S),
    bias: { rows: new Int32Array(0), ids: new Int32Array(0), values: new Float32Array(0) },
    want: { scores: true, hidden: true },
  };
  rows.forEach((row, s) => {
    input.gates.set(row.gates, s * Q);
    for (let t = 0; t < T; t++) {
      input.tokenIds[s * T + t] = row.tokenIds[t] ?? 0;
      input.positions[s * T + t] = Math.min(row.pastLength + t, config.contextTokens - 1);
    }
    input.past.forEach((array, i) => {
      for (let h = 0; h < H; h++) {
        const head = row.past[i].subarray(h * row.pastLength * d, (h + 1) * row.pastLength * d);
        array.set(head, (s * H + h) * P * d);
      }
    });
  });
  return input;
}

export function grownPast(
  config: ModelShape,
  row: StepRow,
  s: number,
  input: StepInput,
  output: StepOutput,
): Float32Array[] {
  const { kvHeads: H, headWidth: d } = config;
  const { sequences: S, tokens: T } = input;
  const added = row.tokenIds.length;
  const length = row.pastLength + added;
  return row.past.map((old, i) => {
    const grown = new Float32Array(H * d * length);
    for (let h = 0; h < H; h++) {
      grown.set(old.subarray(h * row.pastLength * d, (h + 1) * row.pastLength * d), h * length * d);
      const from = ((i * S + s) * H + h) * T * d;
      grown.set(output.present.subarray(from, from + added * d), (h * length + row.pastLength) * d);
    }
    return grown;
  });
}

export function noPast(config: ModelShape): Pick<StepRow, "past" | "pastLength"> {
  return { pastLength: 0, past: Array.from({ length: 2 * config.layers }, () => new Float32Array(0)) };
}

export function randomBank(config: ModelShape, rank: number, biases: number, random: () => number): Bank {
  const { hiddenSize: D } = config;
  const Q = rank + biases;
  const a = new Float32Array(Q * D);
  for (let i = 0; i < rank * D; i++) a[i] = (random() - 0.5) * 0.2;
  const a0 = Float32Array.from({ length: Q }, (_, q) => (q < rank ? 0 : 1));
  return { gates: Q, a, a0, b: Float32Array.from({ length: Q * D }, () => (random() - 0.5) * 0.2) };
}

/** mulberry32, a small seeded generator. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = Math.imul(state ^ (state >>> 15), 1 | state);
    z = (z + Math.imul(z ^ (z >>> 7), 61 | z)) ^ z;
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new Error(`cannot compare ${a.length} values with ${b.length}`);
  let max = 0;
  for (let i = 0; i < a.length; i++) max = Math.max(max, Math.abs(a[i] - b[i]));
  return max;
}

/** True if equal, except that numbers may differ within the tolerance. */
export function areClose(a: unknown, b: unknown, tolerance: number): boolean {
  if (typeof a === "number" && typeof b === "number") return Math.abs(a - b) <= tolerance;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return a === b;
  const [own, others] = [Object.entries(a), new Map(Object.entries(b))];
  return own.length === others.size && own.every(([key, value]) => areClose(value, others.get(key), tolerance));
}
