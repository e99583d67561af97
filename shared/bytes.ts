/** SHA-256 as lower-case hex. */
export async function sha256Hex(bytes: Uint8Array): Promise<string> {
  return hexOf(await crypto.subtle.digest("SHA-256", bytes));
}

const hexDigits = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

export function hexOf(bytes: ArrayBuffer): string {
  let hex = "";
  for (const byte of new Uint8Array(bytes)) hex += hexDigits[byte];
  return hex;
}

/** A single part is returned without a copy. */
export function joinArrays<T extends Uint8Array | Int8Array | Int32Array | Float32Array>(
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
