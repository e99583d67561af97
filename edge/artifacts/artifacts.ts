/** The edge's files of an artifact set: manifest, tokenizer and edge table, each checked against its hash. */
import { setLimits } from "../../shared/artifacts/limits.ts";
import {
  edgeTableFile,
  type Manifest,
  manifestFile,
  parseManifest,
  tokenizerFile,
} from "../../shared/artifacts/manifest.ts";
import { requireFile } from "../../shared/artifacts/set-file.ts";
import { readTensorFile, type TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { sha256Hex } from "../../shared/bytes.ts";
import { ServiceError } from "../../shared/errors.ts";
import { type CentroidVectors, type EdgeTable, readEdgeTable } from "../../shared/math/assignment.ts";
import { ChatTemplate } from "../../shared/tokenizer/chat-template.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { setNewest } from "../platform/newest.ts";

export interface Artifacts {
  manifest: Manifest;
  /** SHA-256 of manifest.json. Only backends that serve the same manifest can answer. */
  manifestHash: string;
  tokenizer: Tokenizer;
  chatTemplate: ChatTemplate;
  table: EdgeTable;
  centroids: CentroidVectors;
}

/** Reads at most `maxBytes + 1` bytes of a file. `sha256`: the file's hash in the manifest. Security: `name` never comes from a request. */
export type ReadArtifact = (name: string, maxBytes: number, sha256?: string) => Promise<Uint8Array>;

/** The served set, and its predecessor or successor. */
const maxHeldSets = 2;
/** Holds no promises, because workerd forbids a request to await another request's promise. */
const held = new Map<string, Artifacts>();

/** Throws an Error that names the file and its fault. */
export async function loadArtifacts(read: ReadArtifact): Promise<Artifacts> {
  const manifestBytes = await read(manifestFile, setLimits.manifestBytes);
  const manifest = parseManifest(new TextDecoder().decode(manifestBytes));
  const [manifestHash, tableFile, tokenFile] = await Promise.all([
    sha256Hex(manifestBytes),
    readVerified(read, manifest, edgeTableFile),
    readVerified(read, manifest, tokenizerFile),
  ]);
  const { table, centroids } = readEdgeTable(tableFile);
  const tokenizer = Tokenizer.fromTensors(tokenFile);
  const { model, embedding } = manifest;
  agree("centroids", manifest.centroids.length, edgeTableFile, centroids.count);
  agree("dimensions", embedding.dimensions, edgeTableFile, table.dimensions);
  agree("vocabulary entries", model.vocabularySize, edgeTableFile, table.vocabularySize);
  agree("vocabulary entries", model.vocabularySize, tokenizerFile, tokenizer.vocabularySize);
  tokenizer.requireSpecial(model.stopIds);
  const chatTemplate = chatTemplateOf(model.chatTemplate ?? null, tokenizer);
  const set = { manifest, manifestHash, tokenizer, chatTemplate, table, centroids };
  setNewest(held, manifestHash, set, maxHeldSets);
  return set;
}

function chatTemplateOf(source: string | null, tokenizer: Tokenizer): ChatTemplate {
  try {
    return new ChatTemplate(source, tokenizer);
  } catch (cause) {
    const why = (cause as Error).message.split("\n")[0].slice(0, 200);
    throw new Error(`${manifestFile}: model.chatTemplate cannot be used: ${why}`, { cause });
  }
}

export function heldSet(manifestHash: string): Artifacts | null {
  return held.get(manifestHash) ?? null;
}

export function artifactsMissing(cause: unknown): ServiceError {
  const message = "The model's tables are not available at the edge.";
  return new ServiceError("backend_unavailable", message, { retryAfterSeconds: 2, cause });
}

async function readVerified(
  read: ReadArtifact,
  { files }: Manifest,
  name: typeof edgeTableFile | typeof tokenizerFile,
): Promise<TensorFile> {
  const record = files[name];
  const bytes = await read(name, record.bytes, record.sha256);
  await requireFile(name, bytes, record);
  return readTensorFile(bytes, name);
}

function agree(what: string, expected: number, file: string, actual: number): void {
  if (actual !== expected) throw new Error(`${file} has ${actual} ${what}, the manifest says ${expected}`);
}
