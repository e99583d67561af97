/**
 * The layout of a tenant's file: records sealed with AES-256-GCM, each as length of the rest (U32, little-endian), IV, encrypted
 * bytes and tag. A record is bound to the file's name and to its place. The first is a label, the others together are the content;
 * a complete file ends with an empty record of its own kind, so that one that was cut between two records does not pass for whole.
 */
import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";

export const keyBytes = 32;
const cipher = "aes-256-gcm";
const [lengthBytes, ivBytes, tagBytes] = [4, 12, 16];
const overheadBytes = lengthBytes + ivBytes + tagBytes;

/** The size of a complete file by the sizes of its records, the label's first. */
export function sealedBytes(recordBytes: readonly number[]): number {
  return recordBytes.reduce((sum, bytes) => sum + bytes + overheadBytes, overheadBytes);
}

/** `place` is the record's number from 0. */
export function sealRecord(key: Uint8Array, name: string, place: number, content: Uint8Array): Uint8Array {
  return seal(key, recordAt(name, place), content);
}

/** What a file ends with after `records` records. */
export function sealEnd(key: Uint8Array, name: string, records: number): Uint8Array {
  return seal(key, endAt(name, records), new Uint8Array(0));
}

function seal(key: Uint8Array, boundTo: Uint8Array, content: Uint8Array): Uint8Array {
  const iv = randomBytes(ivBytes);
  const sealing = createCipheriv(cipher, key, iv).setAAD(boundTo);
  const sealed = sealing.update(content);
  sealing.final();
  const length = Buffer.alloc(lengthBytes);
  length.writeUInt32LE(ivBytes + sealed.length + tagBytes);
  return Buffer.concat([length, iv, sealed, sealing.getAuthTag()]);
}

function recordAt(name: string, place: number): Uint8Array {
  return Buffer.from(`${name} record ${place}`);
}

function endAt(name: string, records: number): Uint8Array {
  return Buffer.from(`${name} end ${records}`);
}

/** The records of a file's bytes, which may be damaged. */
export class SealedRecords {
  readonly #key: Uint8Array;
  readonly #name: string;
  readonly #bytes: Uint8Array;
  /** Where each record begins behind its length, and ends. */
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

  /** Number of records, the label and the last one included. */
  get length(): number {
    return this.#spans.length;
  }

  /** Whether the file ends where its writer finished it. */
  get isFinished(): boolean {
    const last = this.length - 1;
    return (
      last > 0 && this.#spans[last][1] === this.#bytes.length && this.#open(last, endAt(this.#name, last)) !== null
    );
  }

  /** The content of a record; null if there is none at this place, or not of this key and name. */
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
