/** A memory's keys: states before the last feed-forward part, scaled to length 1 and rounded to int8. Pure. */

/** Factor from a key of length 1 to int8. A larger factor would clip the one large value of some models' states and change all cosines. */
export const keyScale = 127;

/** Writes the key of a state [D] into `key` [D]. A state of zeros gives a key of zeros. */
export function writeKey(state: Float32Array, key: Int8Array): void {
  const factor = keyScale * inverseLength(state);
  for (let d = 0; d < state.length; d++) key[d] = Math.round(state[d] * factor);
}

/** 1 / |x|; 0 for zeros. */
export function inverseLength(x: Float32Array): number {
  let squares = 0;
  for (let d = 0; d < x.length; d++) squares += x[d] * x[d];
  return squares > 0 ? 1 / Math.sqrt(squares) : 0;
}
