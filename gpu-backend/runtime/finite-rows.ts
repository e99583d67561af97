/** Checks that computed keys and values are finite. Pure. */

/** The shape of `present`, [arrays, S, H, T, d]. */
interface PresentShape {
  /** 2L + 1 */
  arrays: number;
  sequences: number; // S
  heads: number; // H
  tokens: number; // T
}

/**
 * True if the keys and values of row `s` are finite in the first `tokens` positions. Reads only the last layer: a non-finite
 * value in an earlier layer makes the hidden state non-finite, and so all later keys and values.
 */
export function isFiniteRow(present: Float32Array, shape: PresentShape, s: number, tokens: number): boolean {
  const { arrays, sequences: S, heads: H, tokens: T } = shape;
  const d = present.length / (arrays * S * H * T);
  // x − x is 0 for a finite x and NaN otherwise, so the sum needs no branch per value.
  let sum = 0;
  for (let i = arrays - 2; i < arrays; i++) {
    for (let h = 0; h < H; h++) {
      const start = ((i * S + s) * H + h) * T * d;
      const end = start + tokens * d;
      for (let at = start; at < end; at++) sum += present[at] - present[at];
    }
  }
  return sum === 0;
}
