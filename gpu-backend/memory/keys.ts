/** Keys of a memory: states before the last feed-forward part, of length 1, as int8. Pure. */

/**
 * What an int8 key is multiplied by, one factor for all memories. An element of a key of length 1 may be nearly 1: some models have a
 * state of which one element is most. Cutting it would change the cosines of all keys.
 */
export const keyScale = 127;

/** Writes the key of a state [D] to `key` [D]. A state of zeros gives a key of zeros. */
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
