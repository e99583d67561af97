/** How a file of a set is read and held against its record, the same at publisher, edge and backend. */
import { sha256Hex } from "../sha256.ts";
import { setLimits } from "./limits.ts";
import { manifestFile } from "./manifest.ts";

/**
 * Bytes of a stream: `mostBytes + 1` of them at most, then it is cancelled. Who reads them refuses what has the one too
 * many, so nothing larger than was declared is ever held.
 */
export async function readAtMost(
  stream: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  mostBytes: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of stream) {
    chunks.push(chunk.subarray(0, mostBytes + 1 - length));
    length += chunks[chunks.length - 1].byteLength;
    if (length > mostBytes) break;
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.byteLength;
  }
  return bytes;
}

/** Throws an Error that names the file where its bytes are not those of its record. */
export async function requireFile(
  name: string,
  bytes: Uint8Array,
  record: { sha256: string; bytes: number },
): Promise<void> {
  if (bytes.byteLength > record.bytes) throw new Error(`${name} has more than the ${record.bytes} bytes of its record`);
  const found = await sha256Hex(bytes);
  if (bytes.byteLength === record.bytes && found === record.sha256) return;
  throw new Error(
    `${name} has ${bytes.byteLength} bytes of SHA-256 ${found}; its record says ${record.bytes}, ${record.sha256}`,
  );
}

/** The same of manifest.json, of which only the hash is known. */
export async function requireManifest(bytes: Uint8Array, sha256: string): Promise<void> {
  const most = setLimits.manifestBytes;
  if (bytes.byteLength > most) throw new Error(`${manifestFile} has more than ${most} bytes, the limit manifestBytes`);
  const found = await sha256Hex(bytes);
  if (found === sha256) return;
  throw new Error(`${manifestFile} has ${bytes.byteLength} bytes of SHA-256 ${found}, not of ${sha256}`);
}
