/** Keys are states before the last feed-forward part, scaled to length 1 and rounded to int8. Pure. */

/** A larger factor would clip the one large value of some models' states, and so change all cosines. */
export const keyScale = 127;

export function writeKey(state: Float32Array, key: Int8Array): void {
  const factor = keyScale * inverseLength(state);
  for (let d = 0; d < state.length; d++) key[d] = Math.round(state[d] * factor);
}

/** 1 / |x|, or 0 for zeros. */
export function inverseLength(x: Float32Array): number {
  let squares = 0;
  for (let d = 0; d < x.length; d++) squares += x[d] * x[d];
  return squares > 0 ? 1 / Math.sqrt(squares) : 0;
}
