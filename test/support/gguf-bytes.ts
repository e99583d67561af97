/** Builds GGUF headers field by field, including invalid headers. */
import type { PartFiles } from "../../gpu-backend/models/gguf/part-files.ts";

export type Field =
  | { u32: number }
  | { u64: number | bigint }
  | { f32: number }
  | { text: string }
  | { raw: Uint8Array };

export function bytesOf(...fields: Field[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Buffer.concat(fields.map(fieldBytes)));
}

function fieldBytes(field: Field): Uint8Array {
  if ("raw" in field) return field.raw;
  if ("text" in field) {
    const text = new TextEncoder().encode(field.text);
    return Buffer.concat([fieldBytes({ u64: text.length }), text]);
  }
  const bytes = Buffer.alloc("u64" in field ? 8 : 4);
  if ("u32" in field) bytes.writeUInt32LE(field.u32);
  else if ("f32" in field) bytes.writeFloatLE(field.f32);
  else bytes.writeBigUInt64LE(BigInt(field.u64));
  return bytes;
}

export function fileOf(bytes: Uint8Array, claimedBytes = bytes.length) {
  const read = { bytes: 0, largest: 0 };
  const file: PartFiles = {
    path: "model.gguf",
    bytes: claimedBytes,
    parts: ["model.gguf"],
    read(at, length) {
      read.bytes += length;
      read.largest = Math.max(read.largest, length);
      const copy = new Uint8Array(length);
      copy.set(bytes.subarray(at, at + length));
      return copy;
    },
    stats: () => [],
    close() {},
  };
  return { file, read };
}
