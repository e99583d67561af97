/** A set of artifacts has three or four tensor files and a manifest. Layout: FORMAT.md. */
import { createHash } from "node:crypto";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import {
  type CentroidRecord,
  edgeTableFile,
  type FileRecord,
  hyperNetworkFile,
  type Manifest,
  manifestFile,
  manifestFormat,
  manifestSchema,
  memoriesFile,
  type SetFile,
  tokenizerFile,
} from "../../shared/artifacts/manifest.ts";
import { type TensorFile, tensorFrom, writeTensorFile } from "../../shared/artifacts/tensor-file.ts";
import type { CentroidVectors, EdgeTable } from "../../shared/math/assignment.ts";
import { centroidHash } from "../adapters/generated/generated.ts";
import { writeWhole } from "../files.ts";
import { type Excerpt, packExcerpts } from "../memory/centroid-memories.ts";
import type { BaseText } from "../models/base.ts";
import type { ModelShape } from "../runtime/step.ts";
import type { Adapters } from "./bank/measure.ts";

interface TrainedBank extends Adapters {
  scales: Float32Array; // [K]
}

function hyperNetworkTensors({ bank, network, centroids, scales }: TrainedBank): TensorFile {
  const { gates: Q, hidden: H, dimensions: P } = network;
  const D = bank.a.length / Q;
  return new Map([
    ["w1", tensorFrom(network.w1, [H, P])],
    ["b1", tensorFrom(network.b1, [H])],
    ["w2", tensorFrom(network.w2, [Q, H])],
    ["b2", tensorFrom(network.b2, [Q])],
    ["a", tensorFrom(bank.a, [Q, D])],
    ["a0", tensorFrom(bank.a0, [Q])],
    ["b", tensorFrom(bank.b, [Q, D])],
    ["static_gates", tensorFrom(network.staticGates, [Q])],
    ["centroids", tensorFrom(centroids.vectors, [centroids.count, P])],
    ["scales", tensorFrom(scales, [centroids.count])],
  ]);
}

function edgeTableTensors(table: EdgeTable, centroids: CentroidVectors): TensorFile {
  return new Map([
    ["table", tensorFrom(table.rows, [table.vocabularySize, table.dimensions])],
    ["table_scale", tensorFrom(table.rowScales, [table.vocabularySize])],
    ["centroids", tensorFrom(centroids.vectors, [centroids.count, centroids.dimensions])],
  ]);
}

/** Keys and values of a longer context would not fit in a small machine's RAM. */
const maxContextTokens = 2048;

/** For a base without artifacts. Leaves out the hash of the weights. */
export function servedModel(
  name: string,
  config: ModelShape,
  { stopIds, sampling }: Pick<BaseText, "stopIds" | "sampling">,
) {
  const { vocabularySize, hiddenSize, contextTokens } = config;
  // The name's last part, in the characters that a request's `model` allows.
  const written = name
    .split("/")
    .at(-1)!
    .toLowerCase()
    .replace(/[^a-z0-9._-]+/g, "-");
  const servedAs = written.replace(/^[^a-z0-9]+/, "").slice(0, 64) || "base";
  const served = Math.min(contextTokens, maxContextTokens);
  return { name, servedAs, vocabularySize, hiddenSize, contextTokens: served, stopIds, sampling };
}

/** Writes a set without memories: manifest.json last, each file atomically. Throws an Error if the manifest would be invalid. */
export async function publish(
  directory: string,
  bank: TrainedBank,
  table: EdgeTable,
  tokenizer: TensorFile,
  centroids: readonly Omit<CentroidRecord, "id" | "hash">[],
  about: Pick<Manifest, "model" | "static" | "evidence" | "memory" | "training"> & { prefixTokens: number },
): Promise<Manifest> {
  const P = bank.centroids.dimensions;
  const biases = bank.bank.a0.reduce((sum, constant) => sum + constant, 0);
  const write = (name: SetFile, tensors: TensorFile) => writeTensors(directory, name, tensors);
  const files: Manifest["files"] = {
    [edgeTableFile]: await write(edgeTableFile, edgeTableTensors(table, bank.centroids)),
    [tokenizerFile]: await write(tokenizerFile, tokenizer),
    [hyperNetworkFile]: await write(hyperNetworkFile, hyperNetworkTensors(bank)),
  };
  const manifest: Manifest = manifestSchema.parse({
    format: manifestFormat,
    model: about.model,
    embedding: { dimensions: P, prefixTokens: about.prefixTokens },
    hyperNetwork: {
      hash: files[hyperNetworkFile].sha256,
      rank: bank.bank.a0.length - biases,
      biases,
      hidden: bank.network.hidden,
    },
    centroids: centroids.map((description, k) => ({
      id: `c${k}`,
      hash: centroidHash(bank.centroids.vectors.subarray(k * P, (k + 1) * P), description.scale),
      ...description,
    })),
    static: about.static,
    evidence: about.evidence,
    memory: about.memory,
    files,
    training: about.training,
  } satisfies Manifest);
  await writeManifest(directory, manifest);
  return manifest;
}

/** `gain` is over the centroid's adapter. null: no memory. */
export type CentroidMemory = { excerpts: Excerpt[]; gain: CentroidRecord["gain"] } | null;

/** Writes the memories of a set whose other files are in `directory`, and its manifest. */
export async function publishMemories(
  directory: string,
  former: Manifest,
  memories: readonly CentroidMemory[],
): Promise<Manifest> {
  const excerpts = memories.map((memory) => memory?.excerpts ?? []);
  const files = { ...former.files };
  delete files[memoriesFile];
  if (memories.some((memory) => memory)) {
    files[memoriesFile] = await writeTensors(directory, memoriesFile, packExcerpts(excerpts));
  } else await rm(join(directory, memoriesFile), { force: true });
  const centroids = former.centroids.map(({ memory: _, ...record }, k) => {
    const tokens = excerpts[k].reduce((sum, { ids }) => sum + ids.length, 0);
    return { ...record, ...(memories[k] && { memory: { tokens, gain: memories[k].gain } }) };
  });
  const manifest = manifestSchema.parse({ ...former, centroids, files });
  await writeManifest(directory, manifest);
  return manifest;
}

function writeManifest(directory: string, manifest: Manifest): Promise<void> {
  return writeWhole(join(directory, manifestFile), `${JSON.stringify(manifest, null, 2)}\n`);
}

async function writeTensors(directory: string, name: SetFile, tensors: TensorFile): Promise<FileRecord> {
  const bytes = writeTensorFile(tensors);
  await writeWhole(join(directory, name), bytes);
  const described = [...tensors].map(([name, { dtype, shape }]) => [name, { dtype, shape }]);
  return {
    sha256: createHash("sha256").update(bytes).digest("hex"),
    bytes: bytes.byteLength,
    tensors: Object.fromEntries(described),
  };
}
