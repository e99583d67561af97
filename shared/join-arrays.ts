/** All parts in one array of their type; the part itself where there is one. */
export function joinArrays<T extends Uint8Array | Float32Array>(
  Type: new (length: number) => T,
  parts: readonly T[],
): T {
  if (parts.length === 1) return parts[0];
  const whole = new Type(parts.reduce((sum, { length }) => sum + length, 0));
  let length = 0;
  for (const part of parts) {
    whole.set(part, length);
    length += part.length;
  }
  return whole;
}
