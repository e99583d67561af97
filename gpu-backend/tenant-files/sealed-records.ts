/**
 * The layout of a tenant's file: records sealed with AES-256-GCM. A record is a length (U32, little-endian), the IV, the encrypted bytes
 * and the tag. The tag also covers the file's name and the record's number, so that records cannot be moved or swapped. The first record
 * is a label; the next records joined are the content. An empty end record marks a complete file, so a file cut between two records is
 * incomplete.
 */
import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";

export const keyBytes = 32;
const cipher = "aes-256-gcm";
const [lengthBytes, ivBytes, tagBytes] = [4, 12, 16];
const overheadBytes = lengthBytes + ivBytes + tagBytes;

/** Bytes of a file with these records and the end record, label included. */
export function sealedBytes(recordBytes: readonly number[]): number {
  return recordBytes.reduce((sum, bytes) => sum + bytes + overheadBytes, overheadBytes);
}

/** Seals a record. `boundTo` (`recordAt`, or `endAt` for the end record) is authenticated with the content, but not stored. */
export function seal(key: Uint8Array, boundTo: Uint8Array, content: Uint8Array): Uint8Array {
  const iv = randomBytes(ivBytes);
  const sealing = createCipheriv(cipher, key, iv).setAAD(boundTo);
  const sealed = sealing.update(content);
  sealing.final();
  const length = Buffer.alloc(lengthBytes);
  length.writeUInt32LE(ivBytes + sealed.length + tagBytes);
  return Buffer.concat([length, iv, sealed, sealing.getAuthTag()]);
}

/** What a record's tag covers besides the content. The label is record 0. */
export function recordAt(name: string, place: number): Uint8Array {
  return Buffer.from(`${name} record ${place}`);
}

export function endAt(name: string, records: number): Uint8Array {
  return Buffer.from(`${name} end ${records}`);
}

export class SealedRecords {
  readonly #key: Uint8Array;
  readonly #name: string;
  readonly #bytes: Uint8Array;
  /** Start and end of each record, without its length field. */
  readonly #spans: [start: number, end: number][] = [];

  constructor(key: Uint8Array, name: string, bytes: Uint8Array) {
    this.#key = key;
    this.#name = name;
    this.#bytes = bytes;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = 0; at + overheadBytes <= bytes.length; ) {
      const start = at + lengthBytes;
      at = start + view.getUint32(at, true);
      if (at > bytes.length || at - start < ivBytes + tagBytes) break;
      this.#spans.push([start, at]);
    }
  }

  /** Number of records, with label and end record. */
  get length(): number {
    return this.#spans.length;
  }

  get isFinished(): boolean {
    const last = this.length - 1;
    return (
      last > 0 && this.#spans[last][1] === this.#bytes.length && this.#open(last, endAt(this.#name, last)) !== null
    );
  }

  /** Returns null if there is no record, or if it was not sealed with this key, name and number. */
  at(place: number): Buffer | null {
    return this.#open(place, recordAt(this.#name, place));
  }

  #open(place: number, boundTo: Uint8Array): Buffer | null {
    const span = this.#spans[place];
    if (!span) return null;
    const sealed = this.#bytes.subarray(...span);
    const tagStart = sealed.length - tagBytes;
    const opening = createDecipheriv(cipher, this.#key, sealed.subarray(0, ivBytes), { authTagLength: tagBytes })
      .setAAD(boundTo)
      .setAuthTag(sealed.subarray(tagStart));
    const content = opening.update(sealed.subarray(ivBytes, tagStart));
    try {
      opening.final();
    } catch {
      return null;
    }
    return content;
  }
}
