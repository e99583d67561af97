/** Reads a GGUF header (docs/gguf.md of ggml). The file is not trusted: every length is checked before memory is allocated. */
import { setLimits } from "../../../shared/artifacts/limits.ts";
import { describe } from "../../../shared/describe.ts";
import { powerOfTwo } from "../../../shared/math/power-of-two.ts";
import { type BlockType, blockLayouts } from "../../runtime/block-types.ts";
import type { PartFiles } from "./part-files.ts";

export const ggufLimits = {
  /** Bytes of the header. Vocabulary and merges of 256,000 ids take 9 MB. */
  headerBytes: 32 * 2 ** 20,
  metadataEntries: 4096,
  keyBytes: 256,
  /** Bytes of a text. The longest text is a chat template. */
  textBytes: 2 ** 20,
  /** Elements of all arrays together. Llama 3's tokens, types and merges are 536,000. */
  arrayElements: 2 ** 20,
  alignment: 65_536,
  dimensions: 4,
} as const;

/** Values and bytes of the smallest part of a tensor that can be decoded by itself. */
const tensorLayouts = {
  ...{ F32: { values: 1, bytes: 4 }, F16: { values: 1, bytes: 2 }, BF16: { values: 1, bytes: 2 } },
  ...blockLayouts,
} as const;
export type TensorType = "F32" | "F16" | "BF16" | BlockType;
/** Tensor types by their number in the file. null for numbers no longer used. */
const typeNames: readonly (string | null)[] = [
  ...["F32", "F16", "Q4_0", "Q4_1", null, null, "Q5_0", "Q5_1", "Q8_0", "Q8_1"],
  ...["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S"],
  ...["IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M"],
  ...["BF16", null, null, null, "TQ1_0", "TQ2_0", null, null, null, "MXFP4"],
];

const decoder = new TextDecoder();
const windowBytes = 2 ** 16;

export interface TensorInfo {
  name: string;
  type: TensorType;
  /** Outermost dimension first. The file stores dimensions in reverse order. */
  shape: readonly number[];
  at: number;
  bytes: number;
}

/** An array's element type, number of elements and offset in the file, until the array is decoded. */
type MetadataValue = number | bigint | boolean | string | { elementType: number; count: number; at: number };

const boolType = 7;
const textType = 8;
const arrayType = 9;
const scalarTypes: Record<number, readonly [bytes: number, read: ScalarReader]> = {
  ...{ 0: [1, "getUint8"], 1: [1, "getInt8"], 2: [2, "getUint16"], 3: [2, "getInt16"] },
  ...{ 4: [4, "getUint32"], 5: [4, "getInt32"], 6: [4, "getFloat32"], 7: [1, "getUint8"] },
  ...{ 10: [8, "getBigUint64"], 11: [8, "getBigInt64"], 12: [8, "getFloat64"] },
};
type ScalarReader = Exclude<keyof DataView & `get${string}`, "getFloat16">;

export class GgufHeader {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly #file: PartFiles;
  readonly #metadata: ReadonlyMap<string, MetadataValue>;

  constructor(file: PartFiles) {
    const cursor = new Cursor(file);
    const { tensorCount, metadataCount } = readPreamble(cursor);
    this.#file = file;
    this.#metadata = readMetadata(cursor, metadataCount);
    const alignment = this.number("general.alignment") ?? 32;
    if (!(alignment <= ggufLimits.alignment && powerOfTwo(alignment, 8) === alignment)) {
      throw new Error(`${file.path}: general.alignment is ${alignment}, not a power of two of at most 65536`);
    }
    this.tensors = readTensorInfos(cursor, tensorCount, alignment);
  }

  /** Returns null if the key is missing. Throws an Error for an integer that a double cannot hold exactly. */
  number(key: string): number | null {
    const value = this.#metadata.get(key);
    if (value === undefined) return null;
    const number = typeof value === "bigint" ? Number(value) : value;
    if (typeof number === "number" && (typeof value !== "bigint" || Number.isSafeInteger(number))) return number;
    throw this.#wrongType(key, value, "a number");
  }

  text(key: string): string | null {
    const value = this.#metadata.get(key);
    if (value === undefined || typeof value === "string") return value ?? null;
    throw this.#wrongType(key, value, "text");
  }

  scalar(key: string): number | boolean | string | null {
    const value = this.#metadata.get(key);
    if (value === undefined) return null;
    if (typeof value === "object") throw this.#wrongType(key, value, "a single value");
    return typeof value === "bigint" ? Number(value) : value;
  }

  texts(key: string, maxElements: number): string[] | null {
    const cursor = this.#array(key, maxElements, (type) => type === textType, "an array of texts");
    return cursor && Array.from({ length: cursor.count }, () => cursor.cursor.text(ggufLimits.textBytes, key));
  }

  numbers(key: string, maxElements: number): number[] | null {
    const isNumber = (type: number) => type in scalarTypes && type !== boolType;
    const array = this.#array(key, maxElements, isNumber, "an array of numbers");
    return array && Array.from({ length: array.count }, () => Number(array.cursor.scalar(array.elementType)));
  }

  #array(key: string, maxElements: number, accepts: (elementType: number) => boolean, wanted: string) {
    const value = this.#metadata.get(key);
    if (value === undefined) return null;
    if (typeof value !== "object" || !accepts(value.elementType)) throw this.#wrongType(key, value, wanted);
    if (value.count > maxElements) {
      throw new Error(`${this.#file.path}: ${key} has ${value.count} elements, the maximum is ${maxElements}`);
    }
    return { ...value, cursor: new Cursor(this.#file, value.at) };
  }

  #wrongType(key: string, value: MetadataValue, wanted: string): Error {
    const found = typeof value === "object" ? `an array of type ${value.elementType}` : describe(value);
    return new Error(`${this.#file.path}: ${key} is ${found}, not ${wanted}`);
  }
}

function readPreamble(cursor: Cursor): { tensorCount: number; metadataCount: number } {
  const { path, bytes } = cursor.file;
  if (bytes < 24) throw new Error(`${path} has ${bytes} bytes; the shortest GGUF has 24`);
  if (decoder.decode(cursor.bytes(4)) !== "GGUF") throw new Error(`${path} is no GGUF file`);
  const version = cursor.uint32();
  if (version !== 2 && version !== 3) {
    const isBigEndian = version === 2 << 24 || version === 3 << 24;
    throw new Error(`${path}: GGUF ${isBigEndian ? "in big-endian order" : `version ${version}`} is not supported`);
  }
  const tensorCount = cursor.size("number of tensors", setLimits.tensorsPerFile);
  const metadataCount = cursor.size("number of metadata entries", ggufLimits.metadataEntries);
  return { tensorCount, metadataCount };
}

function readMetadata(cursor: Cursor, count: number): Map<string, MetadataValue> {
  const metadata = new Map<string, MetadataValue>();
  let left: number = ggufLimits.arrayElements;
  for (let i = 0; i < count; i++) {
    const key = cursor.text(ggufLimits.keyBytes, `the key of metadata entry ${i}`);
    if (metadata.has(key)) throw cursor.error(`${describe(key)} occurs twice in the metadata`);
    const value = readValue(cursor, cursor.uint32(), key, left);
    if (typeof value === "object") left -= value.count;
    metadata.set(key, value);
  }
  return metadata;
}

function readValue(cursor: Cursor, type: number, key: string, maxElements: number): MetadataValue {
  if (type === textType) return cursor.text(ggufLimits.textBytes, describe(key));
  if (type in scalarTypes) return cursor.scalar(type);
  if (type !== arrayType) throw cursor.error(`${describe(key)} has the unknown type ${type}`);
  const elementType = cursor.uint32();
  const count = cursor.size(`length of ${describe(key)}`, maxElements);
  const array = { elementType, count, at: cursor.at };
  if (elementType in scalarTypes) cursor.skip(count * scalarTypes[elementType][0]);
  else if (elementType === textType) {
    const what = `length of a text of ${describe(key)}`;
    for (let i = 0; i < count; i++) cursor.skip(cursor.size(what, ggufLimits.textBytes));
  } else {
    const found =
      elementType === arrayType ? "is an array of arrays" : `has elements of the unknown type ${elementType}`;
    throw cursor.error(`${describe(key)} ${found}, which is not supported`);
  }
  return array;
}

function readTensorInfos(cursor: Cursor, count: number, alignment: number): Map<string, TensorInfo> {
  const infos: { name: string; type: TensorType; shape: number[]; offset: number; bytes: number }[] = [];
  const names = new Set<string>();
  for (let i = 0; i < count; i++) {
    const name = cursor.text(setLimits.tensorNameCharacters, `the name of tensor ${i}`);
    if (names.has(name)) throw cursor.error(`tensor ${describe(name)} occurs twice`);
    names.add(name);
    infos.push(readTensorInfo(cursor, name));
  }
  const start = Math.ceil(cursor.at / alignment) * alignment;
  const { bytes: fileBytes } = cursor.file;
  let end = 0;
  for (const { name, offset, bytes } of infos.toSorted((a, b) => a.offset - b.offset || a.bytes - b.bytes)) {
    if (offset % alignment !== 0)
      throw cursor.error(`${describe(name)} begins at ${offset}, which ${alignment} does not divide`);
    if (offset < end)
      throw cursor.error(`${describe(name)} begins at ${offset}, within the tensor before it, which ends at ${end}`);
    end = offset + bytes;
    if (start + end > fileBytes)
      throw cursor.error(`${describe(name)} ends at ${start + end}, the file has ${fileBytes} bytes`);
  }
  return new Map(infos.map(({ offset, ...info }) => [info.name, { ...info, at: start + offset }]));
}

function readTensorInfo(cursor: Cursor, name: string) {
  const shown = describe(name);
  const dimensions = cursor.uint32();
  if (dimensions < 1 || dimensions > ggufLimits.dimensions) {
    throw cursor.error(`${shown} has ${dimensions} dimensions, 1 to ${ggufLimits.dimensions} are supported`);
  }
  // Twice the number of the file's bits: no block type stores two elements in a bit.
  const maxElements = Math.min(Number.MAX_SAFE_INTEGER, cursor.file.bytes * 16);
  const sizes = Array.from({ length: dimensions }, () => cursor.size(`a dimension of ${shown}`, maxElements));
  const elements = sizes.reduce((a, b) => a * b, 1);
  const typeId = cursor.uint32();
  const type = typeNames[typeId] ?? `number ${typeId}`;
  if (!isSupported(type)) {
    throw cursor.error(`${shown} has type ${type}; supported are ${Object.keys(tensorLayouts).join(", ")}`);
  }
  const layout = tensorLayouts[type];
  if (elements < 1 || elements > maxElements) throw cursor.error(`${shown} of shape [${sizes}] does not fit the file`);
  if (sizes[0] % layout.values !== 0) {
    throw cursor.error(`${shown} has rows of ${sizes[0]}, ${type} needs a multiple of ${layout.values}`);
  }
  const bytes = (elements / layout.values) * layout.bytes;
  const offset = cursor.size(`the offset of ${shown}`, cursor.file.bytes);
  return { name, type, shape: sizes.reverse(), offset, bytes };
}

function isSupported(type: string): type is TensorType {
  return Object.hasOwn(tensorLayouts, type);
}

class Cursor {
  readonly file: PartFiles;
  #window = new DataView(new ArrayBuffer(0));
  #windowAt: number;
  at: number;

  constructor(file: PartFiles, at = 0) {
    this.file = file;
    this.#windowAt = at;
    this.at = at;
  }

  error(what: string): Error {
    return new Error(`${this.file.path}: ${what}`);
  }

  skip(bytes: number): void {
    this.at += bytes;
    const { bytes: fileBytes } = this.file;
    if (this.at > fileBytes) throw this.error(`its header goes on at ${this.at}, the file has ${fileBytes} bytes`);
    if (this.at > ggufLimits.headerBytes) {
      throw this.error(`its header has more than ${ggufLimits.headerBytes} bytes, the maximum`);
    }
  }

  bytes(length: number): Uint8Array {
    const from = this.#take(length);
    return new Uint8Array(this.#window.buffer, from, length);
  }

  uint32(): number {
    return this.#window.getUint32(this.#take(4), true);
  }

  /** Reads a 64-bit count or offset. */
  size(what: string, max: number): number {
    const from = this.#take(8);
    const size = this.#window.getUint32(from, true) + 2 ** 32 * this.#window.getUint32(from + 4, true);
    if (size <= max) return size;
    throw this.error(`${what} is ${this.#window.getBigUint64(from, true)}, the maximum is ${max}`);
  }

  text(maxBytes: number, what: string): string {
    return decoder.decode(this.bytes(this.size(`length of ${what}`, maxBytes)));
  }

  scalar(type: number): number | bigint | boolean {
    const [bytes, read] = scalarTypes[type];
    const from = this.#take(bytes);
    const value = this.#window[read](from, true);
    return type === boolType ? value !== 0 : value;
  }

  /** Skips bytes and returns their offset in the window. */
  #take(length: number): number {
    const from = this.at;
    this.skip(length);
    if (from < this.#windowAt || this.at > this.#windowAt + this.#window.byteLength) {
      const wanted = Math.max(length, Math.min(windowBytes, this.file.bytes - from));
      this.#window = new DataView(this.file.read(from, wanted).buffer);
      this.#windowAt = from;
    }
    return from - this.#windowAt;
  }
}
