/**
 * Writes GGUF version 3, llama.cpp's file of tensors and metadata. Layout: ggml's docs/gguf.md; block formats: ggml-quants.
 * Not here: what the tensors are called.
 */

/** Numbers by the width that the reader wants. */
export type GgufValue =
  | { u32: number }
  | { f32: number }
  | { text: string }
  | { texts: readonly string[] }
  | { i32s: readonly number[] };

export type GgufFormat = "f32" | "q8_0" | "q4_0";

export interface GgufTensor {
  name: string;
  /** Row-major, [rows, columns] or [columns]; a block format needs columns that are a multiple of 32. */
  shape: number[];
  values: Float32Array;
  format: GgufFormat;
}

const alignment = 32;
const blockElements = 32;
const types = { u32: 4, i32: 5, f32: 6, text: 8, array: 9 };
const tensorTypes: Record<GgufFormat, number> = { f32: 0, q4_0: 2, q8_0: 8 };

/** The whole file. */
export function writeGguf(metadata: Record<string, GgufValue>, tensors: readonly GgufTensor[]): Uint8Array {
  const encoded = tensors.map(({ values, format }) => encode(values, format));
  const header = new ByteWriter();
  header.bytes(new TextEncoder().encode("GGUF"));
  header.u32(3);
  header.u64(tensors.length);
  header.u64(Object.keys(metadata).length);
  for (const [key, value] of Object.entries(metadata)) {
    header.text(key);
    header.value(value);
  }
  let offset = 0;
  tensors.forEach(({ name, shape, format }, i) => {
    header.text(name);
    header.u32(shape.length);
    // Innermost first.
    for (const size of shape.toReversed()) header.u64(size);
    header.u32(tensorTypes[format]);
    header.u64(offset);
    offset += aligned(encoded[i].byteLength);
  });
  const head = header.result();
  const file = new Uint8Array(aligned(head.byteLength) + offset);
  file.set(head);
  let at = aligned(head.byteLength);
  for (const bytes of encoded) {
    file.set(bytes, at);
    at += aligned(bytes.byteLength);
  }
  return file;
}

/** The tensor's bytes in its format. */
export function encode(values: Float32Array, format: GgufFormat): Uint8Array {
  if (format === "f32") return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  if (values.length % blockElements !== 0) {
    throw new Error(`GGUF: ${format} needs a multiple of ${blockElements} values, got ${values.length}`);
  }
  const blocks = values.length / blockElements;
  const blockBytes = format === "q8_0" ? 2 + blockElements : 2 + blockElements / 2;
  const bytes = new Uint8Array(blocks * blockBytes);
  const view = new DataView(bytes.buffer);
  for (let block = 0; block < blocks; block++) {
    const from = values.subarray(block * blockElements, (block + 1) * blockElements);
    const extreme = from.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a), 0);
    const at = block * blockBytes;
    // In q4_0 the extreme value lands on 0, the end of the range that is one step longer.
    const scale = format === "q8_0" ? Math.abs(extreme) / 127 : extreme / -8;
    const inverse = scale === 0 ? 0 : 1 / scale;
    view.setFloat16(at, scale, true);
    if (format === "q8_0") {
      for (let i = 0; i < blockElements; i++) view.setInt8(at + 2 + i, Math.round(from[i] * inverse));
    } else {
      const nibble = (i: number) => Math.min(15, Math.floor(from[i] * inverse + 8.5));
      for (let i = 0; i < blockElements / 2; i++) {
        bytes[at + 2 + i] = nibble(i) | (nibble(i + blockElements / 2) << 4);
      }
    }
  }
  return bytes;
}

function aligned(size: number): number {
  return Math.ceil(size / alignment) * alignment;
}

/** Appends little-endian values to a buffer that grows. */
class ByteWriter {
  #view = new DataView(new ArrayBuffer(1 << 20));
  #at = 0;

  bytes(bytes: Uint8Array): void {
    this.#room(bytes.byteLength);
    new Uint8Array(this.#view.buffer).set(bytes, this.#at);
    this.#at += bytes.byteLength;
  }

  u32(value: number): void {
    this.#room(4);
    this.#view.setUint32(this.#at, value, true);
    this.#at += 4;
  }

  f32(value: number): void {
    this.#room(4);
    this.#view.setFloat32(this.#at, value, true);
    this.#at += 4;
  }

  u64(value: number): void {
    this.#room(8);
    this.#view.setBigUint64(this.#at, BigInt(value), true);
    this.#at += 8;
  }

  text(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.u64(bytes.byteLength);
    this.bytes(bytes);
  }

  value(value: GgufValue): void {
    if ("u32" in value) {
      this.u32(types.u32);
      this.u32(value.u32);
    } else if ("f32" in value) {
      this.u32(types.f32);
      this.f32(value.f32);
    } else if ("text" in value) {
      this.u32(types.text);
      this.text(value.text);
    } else {
      const isText = "texts" in value;
      const items = isText ? value.texts : value.i32s;
      this.u32(types.array);
      this.u32(isText ? types.text : types.i32);
      this.u64(items.length);
      for (const item of items) {
        if (typeof item === "string") this.text(item);
        else this.u32(item >>> 0);
      }
    }
  }

  result(): Uint8Array {
    return new Uint8Array(this.#view.buffer, 0, this.#at);
  }

  #room(bytes: number): void {
    let capacity = this.#view.byteLength;
    while (capacity < this.#at + bytes) capacity *= 2;
    if (capacity === this.#view.byteLength) return;
    const grown = new Uint8Array(capacity);
    grown.set(new Uint8Array(this.#view.buffer));
    this.#view = new DataView(grown.buffer);
  }
}
