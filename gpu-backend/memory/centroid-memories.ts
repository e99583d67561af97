/** The public text of which centroids' memories are made: excerpts of training documents. Layout: FORMAT.md. */
import { createHash } from "node:crypto";
import { type Manifest, memoriesFile } from "../../shared/artifacts/manifest.ts";
import { alignedCopy, requireTensor, type TensorFile, tensorFrom } from "../../shared/artifacts/tensor-file.ts";
import { joinArrays } from "../../shared/bytes.ts";
import { centroidTenant } from "../../shared/contracts/tenant-name.ts";
import { type MemoryName, readNames } from "./memory.ts";

/** Ends of tokens in a document are 32-bit numbers (memory.ts). */
const maxOffset = 2 ** 30;

export interface Excerpt {
  /** Name of the document. */
  name: string;
  /** Byte offset of the excerpt in the document's text. */
  offset: number;
  ids: Int32Array; // at least two
}

/** What a centroid's memory is made of: a set's text, and a backend that computes keys with certain bits. */
export interface MemorySource {
  manifestHash: string;
  numerics: string;
}

/** The manifest has the hash of the set's text, so the name covers the memory's content. */
export function centroidMemory({ manifestHash, numerics }: MemorySource, centroidId: string): MemoryName {
  const hash = createHash("sha256").update(`${manifestHash}/${numerics}/${centroidId}`).digest("hex");
  return { tenant: centroidTenant, hash };
}

/** `excerpts` are the excerpts of each centroid; empty for a centroid without a memory. */
export function packExcerpts(excerpts: readonly (readonly Excerpt[])[]): TensorFile {
  const all = excerpts.flat();
  const names = new TextEncoder().encode(JSON.stringify(all.map(({ name }) => name)));
  const integers = (values: readonly number[]) => tensorFrom(Int32Array.from(values), [values.length]);
  const ids = joinArrays(
    Int32Array,
    all.map((one) => one.ids),
  );
  return new Map([
    ["ids", tensorFrom(ids, [ids.length])],
    ["excerpt_ends", integers(endsOf(all.map((one) => one.ids.length)))],
    ["excerpt_offsets", integers(all.map(({ offset }) => offset))],
    ["centroid_ends", integers(endsOf(excerpts.map(({ length }) => length)))],
    ["excerpt_names", tensorFrom(names, [names.length])],
  ]);
}

/** Returns the excerpts of each centroid. Throws an Error if file and manifest do not agree. */
export function readExcerpts(file: TensorFile, { centroids, model }: Pick<Manifest, "centroids" | "model">) {
  const integers = (name: string, size: number | null) =>
    new Int32Array(alignedCopy(requireTensor(file, name, "I32", [size], memoriesFile).bytes));
  const ids = integers("ids", null);
  const names = readNames(file, "excerpt_names", memoriesFile);
  const excerptEnds = integers("excerpt_ends", names.length);
  const offsets = integers("excerpt_offsets", names.length);
  const centroidEnds = integers("centroid_ends", centroids.length);
  requireEnds("excerpt_ends", excerptEnds, ids.length, 2);
  requireEnds("centroid_ends", centroidEnds, names.length, 0);
  if (!ids.every((id) => id >= 0 && id < model.vocabularySize)) {
    throw new Error(`${memoriesFile}: a token id is not below ${model.vocabularySize}`);
  }
  if (!offsets.every((offset) => offset >= 0 && offset <= maxOffset)) {
    throw new Error(`${memoriesFile}: an offset is not between 0 and ${maxOffset}`);
  }
  const excerpts = names.map((name, e): Excerpt => {
    return { name, offset: offsets[e], ids: ids.subarray(excerptEnds[e - 1] ?? 0, excerptEnds[e]) };
  });
  return centroids.map(({ id, memory }, k) => {
    const own = excerpts.slice(centroidEnds[k - 1] ?? 0, centroidEnds[k]);
    const tokens = own.reduce((sum, one) => sum + one.ids.length, 0);
    if (tokens === (memory?.tokens ?? 0)) return own;
    throw new Error(`${memoriesFile}: ${id} has ${tokens} tokens, its manifest says ${memory?.tokens ?? 0}`);
  });
}

function endsOf(lengths: readonly number[]): number[] {
  let end = 0;
  return lengths.map((length) => (end += length));
}

function requireEnds(name: string, ends: Int32Array, last: number, least: number): void {
  const isOrdered = ends.every((end, i) => end - (ends[i - 1] ?? 0) >= least);
  if (isOrdered && (ends.at(-1) ?? 0) === last) return;
  throw new Error(`${memoriesFile}: ${name} does not rise by at least ${least} to ${last}`);
}
