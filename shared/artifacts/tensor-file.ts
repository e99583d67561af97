/** Reads and writes safetensors: header length (little-endian u64), JSON header {name: {dtype, shape, data_offsets}}, bytes (FORMAT.md). */
import * as z from "zod";
import { floatOfHalf } from "../math/float16.ts";
import { parseJson, requireValid } from "./checked-json.ts";
import { setLimits } from "./limits.ts";

const bytesPerElement = {
  ...{ F32: 4, F16: 2, BF16: 2, I8: 1, U8: 1, U16: 2, I32: 4, U32: 4 },
  // Types of masks and positions in model files. No code computes with them.
  ...{ BOOL: 1, I16: 2, I64: 8, U64: 8, F64: 8 },
};
export type Dtype = keyof typeof bytesPerElement;

export interface Tensor {
  dtype: Dtype;
  shape: number[];
  /** Little-endian, row-major, `bytesPerElement × product(shape)` long. */
  bytes: Uint8Array;
}
export type TensorFile = Map<string, Tensor>;

/** The returned tensors are views of `file`. Throws an Error if the file is truncated or inconsistent. */
export function readTensorFile(file: Uint8Array, what = "tensor file"): TensorFile {
  if (file.byteLength < 8) throw new Error(`${what}: ${file.byteLength} bytes, a header needs at least 8`);
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const headerBytes = view.getUint32(0, true) + 2 ** 32 * view.getUint32(4, true);
  if (8 + headerBytes > file.byteLength) {
    throw new Error(`${what}: header of ${headerBytes} bytes does not fit a file of ${file.byteLength}`);
  }
  if (headerBytes > setLimits.tensorHeaderBytes) {
    throw new Error(`${what}: header of ${headerBytes} bytes, the maximum is ${setLimits.tensorHeaderBytes}`);
  }
  const entries = readHeader(file.subarray(8, 8 + headerBytes), what);
  const data = file.subarray(8 + headerBytes);
  const tensors: TensorFile = new Map();
  for (const [name, { dtype, shape, data_offsets }] of entries) {
    const [start, stop] = data_offsets;
    const expected = shape.reduce((a, b) => a * b, bytesPerElement[dtype]);
    if (stop - start !== expected) {
      throw new Error(`${what}: ${name} spans ${stop - start} bytes, its shape needs ${expected}`);
    }
    if (stop > data.byteLength) {
      throw new Error(`${what}: ${name} ends at ${8 + headerBytes + stop}, the file has ${file.byteLength} bytes`);
    }
    tensors.set(name, { dtype, shape, bytes: data.subarray(start, stop) });
  }
  requireContiguous(entries, 8 + headerBytes, file.byteLength, what);
  return tensors;
}

type Entries = readonly (readonly [string, HeaderEntry])[];

function readHeader(bytes: Uint8Array, what: string): Entries {
  const header = parseJson(new TextDecoder().decode(bytes), `the header of ${what}`);
  if (typeof header !== "object" || header === null || Array.isArray(header)) {
    throw new Error(`${what}: its header is not a JSON object`);
  }
  const entries = Object.entries(header).filter(([name]) => name !== "__metadata__");
  if (entries.length > setLimits.tensorsPerFile) {
    throw new Error(`${what}: ${entries.length} tensors, the maximum is ${setLimits.tensorsPerFile}`);
  }
  return entries.map(([name, entry]) => [name, requireEntry(what, name, entry)] as const);
}

function requireContiguous(entries: Entries, dataStart: number, fileBytes: number, what: string): void {
  let end = 0;
  for (const [name, { data_offsets }] of entries.toSorted(byOffset)) {
    if (data_offsets[0] !== end) throw new Error(`${what}: ${name} begins at ${data_offsets[0]}, not at ${end}`);
    end = data_offsets[1];
  }
  if (dataStart + end !== fileBytes) {
    throw new Error(`${what}: ${fileBytes} bytes, the header accounts for ${dataStart + end}`);
  }
}

function byOffset([, a]: Entries[number], [, b]: Entries[number]): number {
  return a.data_offsets[0] - b.data_offsets[0] || a.data_offsets[1] - b.data_offsets[1];
}

const size = z.int().min(0);
const entrySchema = z.object({
  dtype: z.enum(Object.keys(bytesPerElement) as Dtype[]),
  shape: z.array(size).max(setLimits.tensorDimensions),
  data_offsets: z.tuple([size, size]),
});
type HeaderEntry = z.infer<typeof entrySchema>;

function requireEntry(what: string, name: string, entry: unknown): HeaderEntry {
  if (name.length > setLimits.tensorNameCharacters) {
    throw new Error(
      `${what}: a tensor's name has ${name.length} characters, the maximum is ${setLimits.tensorNameCharacters}`,
    );
  }
  return requireValid(entrySchema, entry, `${what}: ${name}`);
}

/** Writes tensors with the widest elements first, which aligns them. The caller appends the bytes of `last`. */
export function writeTensorFile(
  tensors: TensorFile,
  last?: { name: string; dtype: Dtype; shape: number[] },
): Uint8Array<ArrayBuffer> {
  const ordered = [...tensors].sort(([, a], [, b]) => bytesPerElement[b.dtype] - bytesPerElement[a.dtype]);
  const header: Record<string, HeaderEntry> = {};
  let offset = 0;
  for (const [name, { dtype, shape, bytes }] of ordered) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.byteLength] };
    offset += bytes.byteLength;
  }
  if (last) {
    const { name, dtype, shape } = last;
    const bytes = shape.reduce((a, b) => a * b, bytesPerElement[dtype]);
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes] };
  }
  let json = JSON.stringify(header);
  json += " ".repeat((8 - (json.length % 8)) % 8);
  const headerBytes = new TextEncoder().encode(json);
  const file = new Uint8Array(8 + headerBytes.byteLength + offset);
  new DataView(file.buffer).setUint32(0, headerBytes.byteLength, true);
  file.set(headerBytes, 8);
  for (const [name, { bytes }] of ordered) file.set(bytes, 8 + headerBytes.byteLength + header[name].data_offsets[0]);
  return file;
}

export function tensorOf(file: TensorFile, name: string): Tensor {
  const tensor = file.get(name);
  if (!tensor) throw new Error(`tensor file: no tensor ${name}; it has ${[...file.keys()].slice(0, 20).join(", ")}`);
  return tensor;
}

/** Throws an Error unless the named tensor has this dtype and shape. A null in `shape` allows any size. */
export function requireTensor(
  file: TensorFile,
  name: string,
  dtype: Dtype,
  shape: readonly (number | null)[],
  what: string,
): Tensor {
  const tensor = file.get(name);
  if (!tensor) throw new Error(`${what}: no tensor ${name}`);
  const isOfShape =
    tensor.shape.length === shape.length && shape.every((size, i) => size === null || size === tensor.shape[i]);
  if (tensor.dtype === dtype && isOfShape) return tensor;
  const wanted = shape.map((size) => size ?? "any").join();
  throw new Error(`${what}: ${name} is ${tensor.dtype} [${tensor.shape}], expected ${dtype} [${wanted}]`);
}

/** Returns a copy. Throws an Error as `requireTensor` does, and for NaN or a magnitude above `setLimits.tensorValue`. */
export function requireFloats(
  file: TensorFile,
  name: string,
  shape: readonly (number | null)[],
  what: string,
): Float32Array<ArrayBuffer> {
  const values = toFloat32(requireTensor(file, name, "F32", shape, what));
  const bad = values.findIndex((value) => !(Math.abs(value) <= setLimits.tensorValue));
  if (bad < 0) return values;
  throw new Error(`${what}: ${name}: value ${bad} is ${values[bad]}, the limit is ±${setLimits.tensorValue}`);
}

export function isFloat(dtype: Dtype): boolean {
  return dtype === "F32" || dtype === "F16" || dtype === "BF16";
}

/** Copies bytes to a new buffer, because a typed array needs an alignment that a view of a file may lack. */
export function alignedCopy(bytes: Uint8Array): ArrayBuffer {
  // `slice` is not used, because it returns a view for Node's Buffer.
  return new Uint8Array(bytes).buffer;
}

export function toFloat32(tensor: Tensor): Float32Array<ArrayBuffer> {
  const buffer = alignedCopy(tensor.bytes);
  if (tensor.dtype === "F32") return new Float32Array(buffer);
  if (tensor.dtype === "BF16") return widenBrainFloat(new Uint16Array(buffer));
  if (tensor.dtype !== "F16") throw new Error(`tensor file: cannot read ${tensor.dtype} as float32`);
  return widenHalf(new Uint16Array(buffer));
}

/** Uses a loop, because `Float32Array.from` with a function takes six times as long. */
function widenHalf(halves: Uint16Array): Float32Array<ArrayBuffer> {
  const values = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) values[i] = floatOfHalf(halves[i]);
  return values;
}

/** A bfloat16 value is the upper half of a float32 value. */
function widenBrainFloat(halves: Uint16Array): Float32Array<ArrayBuffer> {
  const words = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) words[i] = halves[i] << 16;
  return new Float32Array(words.buffer);
}

/** The tensor shares the array's memory. */
export function tensorFrom(
  array: Float32Array | Int8Array | Uint8Array | Uint16Array | Int32Array | Uint32Array,
  shape: number[],
): Tensor {
  const dtype = dtypeOf(array);
  const expected = shape.reduce((a, b) => a * b, 1);
  if (expected !== array.length)
    throw new Error(`tensor of shape [${shape}] needs ${expected} elements, got ${array.length}`);
  return { dtype, shape, bytes: new Uint8Array(array.buffer, array.byteOffset, array.byteLength) };
}

function dtypeOf(array: unknown): Dtype {
  if (array instanceof Float32Array) return "F32";
  if (array instanceof Int8Array) return "I8";
  if (array instanceof Uint8Array) return "U8";
  if (array instanceof Uint16Array) return "U16";
  if (array instanceof Int32Array) return "I32";
  if (array instanceof Uint32Array) return "U32";
  throw new Error("only little-endian numeric arrays make tensors");
}
