/** Writes GGUF version 3, llama.cpp's file of tensors and metadata (ggml's docs/gguf.md). The caller names the tensors. */
import { bytesOf, type Field } from "./gguf-bytes.ts";

/** A metadata value with its type, because readers accept a number in one width only. */
export type GgufValue =
  | { u32: number }
  | { f32: number }
  | { text: string }
  | { texts: readonly string[] }
  | { i32s: readonly number[] };

export interface GgufTensor {
  name: string;
  /** Row-major, [rows, columns] or [columns]. q8_0 needs columns that are a multiple of 32. */
  shape: number[];
  values: Float32Array;
  format: keyof typeof tensorTypes;
}

const alignment = 32;
const blockElements = 32;
const types = { u32: 4, i32: 5, f32: 6, text: 8, array: 9 };
const tensorTypes = { f32: 0, q8_0: 8 };

export function writeGguf(metadata: Record<string, GgufValue>, tensors: readonly GgufTensor[]): Uint8Array {
  const data = tensors.map(({ values, format }) =>
    aligned(format === "f32" ? new Uint8Array(values.buffer, values.byteOffset, values.byteLength) : q8(values)),
  );
  let offset = 0;
  const header = bytesOf(
    ...[{ raw: new TextEncoder().encode("GGUF") }, { u32: 3 }],
    ...[{ u64: tensors.length }, { u64: Object.keys(metadata).length }],
    ...Object.entries(metadata).flatMap(([key, value]) => [{ text: key }, ...valueFields(value)]),
    ...tensors.flatMap(({ name, shape, format }, i): Field[] => {
      const at = offset;
      offset += data[i].length;
      // GGUF lists the innermost dimension first.
      const sizes = shape.toReversed().map((size) => ({ u64: size }));
      return [{ text: name }, { u32: shape.length }, ...sizes, { u32: tensorTypes[format] }, { u64: at }];
    }),
  );
  return bytesOf({ raw: aligned(header) }, ...data.map((raw) => ({ raw })));
}

function valueFields(value: GgufValue): Field[] {
  if ("u32" in value) return [{ u32: types.u32 }, value];
  if ("f32" in value) return [{ u32: types.f32 }, value];
  if ("text" in value) return [{ u32: types.text }, value];
  const array = (type: number, items: Field[]): Field[] => [
    ...[{ u32: types.array }, { u32: type }, { u64: items.length }],
    ...items,
  ];
  if ("texts" in value) {
    return array(
      types.text,
      value.texts.map((text) => ({ text })),
    );
  }
  return array(
    types.i32,
    value.i32s.map((number) => ({ u32: number >>> 0 })),
  );
}

/** Quantises to q8_0: blocks of 32 bytes, each with a scale in fp16. */
function q8(values: Float32Array): Uint8Array {
  const blocks = values.length / blockElements;
  const view = new DataView(new ArrayBuffer(blocks * (2 + blockElements)));
  for (let block = 0; block < blocks; block++) {
    const from = values.subarray(block * blockElements, (block + 1) * blockElements);
    const at = block * (2 + blockElements);
    const scale = Math.max(...from.map(Math.abs)) / 127;
    view.setFloat16(at, scale, true);
    for (const [i, value] of from.entries()) view.setInt8(at + 2 + i, scale === 0 ? 0 : Math.round(value / scale));
  }
  return new Uint8Array(view.buffer);
}

function aligned(bytes: Uint8Array): Uint8Array {
  const padded = new Uint8Array(Math.ceil(bytes.length / alignment) * alignment);
  padded.set(bytes);
  return padded;
}
