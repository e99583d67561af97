/** Reads and checks files of a set, for publisher, edge and backend. */
import { sha256Hex } from "../bytes.ts";
import { setLimits } from "./limits.ts";
import { manifestFile } from "./manifest.ts";

/** Reads at most `maxBytes + 1` bytes, so that the caller can detect an oversized file. Cancels the rest of the stream. */
export async function readAtMost(
  stream: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  maxBytes: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of stream) {
    chunks.push(chunk.subarray(0, maxBytes + 1 - length));
    length += chunks[chunks.length - 1].byteLength;
    if (length > maxBytes) break;
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.byteLength;
  }
  return bytes;
}

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

export async function requireManifest(bytes: Uint8Array, sha256: string): Promise<void> {
  const max = setLimits.manifestBytes;
  if (bytes.byteLength > max) throw new Error(`${manifestFile} has more than ${max} bytes, the limit manifestBytes`);
  const found = await sha256Hex(bytes);
  if (found === sha256) return;
  throw new Error(`${manifestFile} has ${bytes.byteLength} bytes of SHA-256 ${found}, not of ${sha256}`);
}
