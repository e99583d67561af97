/**
 * safetensors, the one container of every tensor we read or write: an 8-byte little-endian header length,
 * a JSON header {name: {dtype, shape, data_offsets}}, then the bytes. Layout: FORMAT.md.
 */

const bytesPerElement = {
  ...{ F32: 4, F16: 2, BF16: 2, I8: 1, U8: 1, U16: 2, I32: 4, U32: 4 },
  // Never computed with; but a model's file may hold masks and positions of these beside its weights.
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

/** A GPT-2 of 256 layers takes a tenth of it. */
const maximumHeaderBytes = 4 * 2 ** 20;

/**
 * Reads a safetensors file without copying its tensors.
 * Throws an Error that names the tensor and the sizes when the file is truncated, overlong or inconsistent.
 */
export function readTensorFile(file: Uint8Array): TensorFile {
  if (file.byteLength < 8) throw new Error(`tensor file: ${file.byteLength} bytes, a header needs at least 8`);
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const headerBytes = view.getUint32(0, true);
  if (headerBytes > maximumHeaderBytes) {
    throw new Error(`tensor file: header of ${headerBytes} bytes, the maximum is ${maximumHeaderBytes}`);
  }
  if (view.getUint32(4, true) !== 0 || 8 + headerBytes > file.byteLength) {
    throw new Error(`tensor file: header of ${headerBytes} bytes does not fit a file of ${file.byteLength}`);
  }
  const header: unknown = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + headerBytes)));
  const tensors: TensorFile = new Map();
  let end = 0;
  for (const [name, entry] of Object.entries(header as Record<string, unknown>)) {
    if (name === "__metadata__") continue;
    const {
      dtype,
      shape,
      data_offsets: [start, stop],
    } = requireEntry(name, entry);
    const expected = shape.reduce((a, b) => a * b, bytesPerElement[dtype]);
    if (stop - start !== expected)
      throw new Error(`tensor file: ${name} spans ${stop - start} bytes, its shape needs ${expected}`);
    if (8 + headerBytes + stop > file.byteLength) {
      throw new Error(`tensor file: ${name} ends at ${8 + headerBytes + stop}, the file has ${file.byteLength} bytes`);
    }
    end = Math.max(end, stop);
    tensors.set(name, { dtype, shape, bytes: file.subarray(8 + headerBytes + start, 8 + headerBytes + stop) });
  }
  if (8 + headerBytes + end !== file.byteLength) {
    throw new Error(`tensor file: ${file.byteLength} bytes, the header accounts for ${8 + headerBytes + end}`);
  }
  return tensors;
}

interface HeaderEntry {
  dtype: Dtype;
  shape: number[];
  data_offsets: [number, number];
}

function requireEntry(name: string, entry: unknown): HeaderEntry {
  const { dtype, shape, data_offsets } = (entry ?? {}) as Partial<Record<keyof HeaderEntry, unknown>>;
  if (!Object.hasOwn(bytesPerElement, String(dtype))) {
    throw new Error(`tensor file: ${name} has dtype ${dtype}, which is not supported`);
  }
  if (!isSizes(shape) || !isSizes(data_offsets) || data_offsets.length !== 2) {
    throw new Error(`tensor file: ${name} has shape [${shape}] and offsets [${data_offsets}], which are not sizes`);
  }
  return { dtype: dtype as Dtype, shape, data_offsets: [data_offsets[0], data_offsets[1]] };
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

/** Writes a safetensors file. Tensors keep the map's order; each starts on an 8-byte boundary of the data. */
export function writeTensorFile(tensors: TensorFile): Uint8Array<ArrayBuffer> {
  const ordered = [...tensors].sort(([, a], [, b]) => bytesPerElement[b.dtype] - bytesPerElement[a.dtype]);
  const header: Record<string, HeaderEntry> = {};
  let offset = 0;
  for (const [name, { dtype, shape, bytes }] of ordered) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.byteLength] };
    offset += bytes.byteLength;
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

/** The named tensor; throws an Error that lists what is there. */
export function tensorOf(file: TensorFile, name: string): Tensor {
  const tensor = file.get(name);
  if (!tensor) throw new Error(`tensor file: no tensor ${name}; it has ${[...file.keys()].join(", ")}`);
  return tensor;
}

/** Whether `toFloat32` reads it. */
export function isFloat(dtype: Dtype): boolean {
  return dtype in exponentBits;
}

/** The bits that are all set in infinities and NaN. */
const exponentBits: Partial<Record<Dtype, number>> = { F32: 0x7f80_0000, F16: 0x7c00, BF16: 0x7f80 };

/** Index of the first element of a float tensor that is infinite or not a number; -1 where all are finite. */
export function firstNonFinite({ dtype, bytes }: Tensor): number {
  const mask = exponentBits[dtype];
  if (mask === undefined) throw new Error(`tensor file: ${dtype} is no float of up to 32 bits`);
  // Aligned, as the file's own bytes need not be.
  const { buffer } = new Uint8Array(bytes);
  const words = dtype === "F32" ? new Uint32Array(buffer) : new Uint16Array(buffer);
  for (let i = 0; i < words.length; i++) if ((words[i] & mask) === mask) return i;
  return -1;
}

/** A float tensor as float32, widened from float16 or bfloat16 where needed. Always a copy of its own, so aligned. */
export function toFloat32(tensor: Tensor): Float32Array<ArrayBuffer> {
  // Not `slice`: on Node's Buffer that is a view.
  const bytes = new Uint8Array(tensor.bytes);
  if (tensor.dtype === "F32") return new Float32Array(bytes.buffer);
  if (tensor.dtype === "BF16") return widenBrainFloat(new Uint16Array(bytes.buffer));
  if (tensor.dtype !== "F16") throw new Error(`tensor file: cannot read ${tensor.dtype} as float32`);
  return widenHalf(new Uint16Array(bytes.buffer));
}

/** Float16 bit patterns to float32, exactly. */
export function widenHalf(halves: Uint16Array): Float32Array<ArrayBuffer> {
  const floats = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) {
    const h = halves[i];
    const exponent = (h >> 10) & 31;
    const fraction = h & 1023;
    const sign = h >> 15 ? -1 : 1;
    if (exponent === 0) floats[i] = sign * fraction * 2 ** -24;
    else if (exponent === 31) floats[i] = fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    else floats[i] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  return floats;
}

/** bfloat16 bit patterns to float32, exactly: they are the upper halves of float32's. */
function widenBrainFloat(halves: Uint16Array): Float32Array<ArrayBuffer> {
  const words = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) words[i] = halves[i] << 16;
  return new Float32Array(words.buffer);
}

/** A typed array as a tensor; shares its memory. */
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
