/** See shared/math/memory.ts. Shapes: N keys, D hidden, C documents, V vocabulary. */
import {
  alignedCopy,
  readTensorFile,
  requireTensor,
  type TensorFile,
  tensorFrom,
  writeTensorFile,
} from "../../shared/artifacts/tensor-file.ts";
import { joinArrays } from "../../shared/bytes.ts";
import { limits } from "../../shared/contracts/limits.ts";

/** A document of n tokens has n − 1 keys, one before each token but the first. */
export interface Memory {
  /** [N, D] */
  keys: Int8Array;
  /** The token after each key, [N]. */
  nextIds: Int32Array;
  /** Byte range of the token after each key, in the document's text, [N]. */
  starts: Int32Array;
  ends: Int32Array;
  documents: MemoryDocument[]; // [C], in the order of their keys
}

export interface MemoryDocument {
  name: string;
  /** The document's first token, which has no key. `nextIds` has the later tokens. */
  firstId: number;
  end: number;
}

/** Where a memory is stored. `tenant` is a tenant's name, or `centroidTenant`. */
export interface MemoryName {
  tenant: string;
  hash: string;
}

export interface MemoryShape {
  manifestHash: string;
  hiddenSize: number;
  vocabularySize: number;
}

const what = "memory";

export interface DocumentTokens {
  name: string;
  ids: Int32Array; // [n], at least one
  ends: Int32Array; // [n], byte offset of each token's end
}

/** The file's beginning. The caller appends the keys of each document, [n − 1, D] for n tokens. */
export function packMemoryHead(
  documents: readonly DocumentTokens[],
  hiddenSize: number,
  manifestHash: string,
): Uint8Array<ArrayBuffer> {
  const join = (of: (document: DocumentTokens) => Int32Array) => {
    const joined = joinArrays(Int32Array, documents.map(of));
    return tensorFrom(joined, [joined.length]);
  };
  let end = 0;
  const documentEnds = Int32Array.from(documents, ({ ids }) => (end += ids.length - 1));
  const firstIds = Int32Array.from(documents, ({ ids }) => ids[0]);
  const names = new TextEncoder().encode(JSON.stringify(documents.map(({ name }) => name)));
  const file: TensorFile = new Map([
    ["next_ids", join(({ ids }) => ids.subarray(1))],
    ["starts", join(({ ends }) => ends.subarray(0, -1))],
    ["ends", join(({ ends }) => ends.subarray(1))],
    ["document_first_ids", tensorFrom(firstIds, [documents.length])],
    ["document_ends", tensorFrom(documentEnds, [documents.length])],
    ["manifest", tensorFrom(Buffer.from(manifestHash, "hex"), [32])],
    ["document_names", tensorFrom(names, [names.length])],
  ]);
  return writeTensorFile(file, { name: "keys", dtype: "I8", shape: [end, hiddenSize] });
}

/** In the result, `keys` is a view of `bytes`. Throws an Error for another manifest or shape, and for invalid bytes. */
export function unpackMemory(bytes: Uint8Array, { manifestHash, hiddenSize, vocabularySize }: MemoryShape): Memory {
  const file = readTensorFile(bytes, what);
  const madeFor = Buffer.from(requireTensor(file, "manifest", "U8", [32], what).bytes).toString("hex");
  if (madeFor !== manifestHash) throw new Error(`${what}: made for manifest ${madeFor}, not for ${manifestHash}`);
  const integers = (name: string, size: number | null) =>
    new Int32Array(alignedCopy(requireTensor(file, name, "I32", [size], what).bytes));
  const nextIds = integers("next_ids", null);
  const N = nextIds.length;
  const starts = integers("starts", N);
  const ends = integers("ends", N);
  const stored = requireTensor(file, "keys", "I8", [N, hiddenSize], what).bytes;
  const names = readNames(file, "document_names", what);
  const documentEnds = integers("document_ends", names.length);
  const firstIds = integers("document_first_ids", names.length);
  const isToken = (id: number) => id >= 0 && id < vocabularySize;
  if (!nextIds.every(isToken) || !firstIds.every(isToken)) {
    throw new Error(`${what}: a token id is not below ${vocabularySize}`);
  }
  if (!starts.every((start, i) => start >= 0 && start <= ends[i]))
    throw new Error(`${what}: a token ends before it starts`);
  if (!documentEnds.every((end, c) => end >= (documentEnds[c - 1] ?? 0)) || (documentEnds.at(-1) ?? 0) !== N) {
    throw new Error(`${what}: documents do not end one after the other at ${N}`);
  }
  return {
    ...{ nextIds, starts, ends },
    keys: new Int8Array(stored.buffer, stored.byteOffset, stored.byteLength),
    documents: names.map((name, c) => ({ name, firstId: firstIds[c], end: documentEnds[c] })),
  };
}

/** Sets `starts` and `ends` of a memory in which a document's tokens all end where the document begins. */
export function setByteRanges({ nextIds, starts, ends, documents }: Memory, textPieceOf: (id: number) => Uint8Array) {
  let i = 0;
  for (const { firstId, end } of documents) {
    let bytes = starts[i] + textPieceOf(firstId).length;
    for (; i < end; i++) {
      starts[i] = bytes;
      bytes += textPieceOf(nextIds[i]).length;
      ends[i] = bytes;
    }
  }
}

/** Reads names of documents. `what` is the file's name in errors. */
export function readNames(file: TensorFile, tensor: string, what: string): string[] {
  const { bytes } = requireTensor(file, tensor, "U8", [null], what);
  const most = limits.documentNameCharacters;
  const refused = (cause?: unknown) =>
    new Error(`${what}: ${tensor} is not a JSON list of strings of 1 to ${most} characters`, { cause });
  let names: unknown;
  try {
    names = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw refused(cause);
  }
  const isName = (one: unknown) => typeof one === "string" && one.length > 0 && one.length <= most;
  if (!Array.isArray(names) || !names.every(isName)) throw refused();
  return names;
}
