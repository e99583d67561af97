/** The edge's share of a model: manifest, tokenizer and edge table, each held to its hash. Not here: where they are. */
import {
  edgeTableFile,
  type FileRecord,
  type Manifest,
  manifestFile,
  parseManifest,
  tokenizerFile,
} from "../../shared/artifacts/manifest.ts";
import { readTensorFile, type TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { ServiceError } from "../../shared/errors.ts";
import { type CentroidVectors, type EdgeTable, readEdgeTable } from "../../shared/math/assignment.ts";
import { sha256Hex } from "../../shared/sha256.ts";
import { ChatTemplate } from "../../shared/tokenizer/chat-template.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { setNewest } from "../tenants/newest.ts";

export interface Artifacts {
  manifest: Manifest;
  /** SHA-256 of manifest.json: what a backend must serve, too. */
  manifestHash: string;
  tokenizer: Tokenizer;
  chatTemplate: ChatTemplate;
  table: EdgeTable;
  centroids: CentroidVectors;
}

/** Reads one file of a set, `sha256` being what the manifest says of it; the name is never taken from a request. */
export type ReadArtifact = (name: string, sha256?: string) => Promise<Uint8Array>;

/** Of each file. An isolate has 128 MB, and holds two sets of them; a table of GPT-2's vocabulary has 3.5 MB. */
export const mostArtifactBytes = 16 * 2 ** 20;

/** The served one, and the one before or after it. */
const mostHeldSets = 2;
/**
 * By manifest hash, whoever has loaded them: requests and objects may share an isolate, and a set is large. Values only:
 * what one request awaits, another may not.
 */
const held = new Map<string, Artifacts>();

/** Loads and checks everything. Throws an Error that names the file and what is wrong with it. */
export async function loadArtifacts(read: ReadArtifact): Promise<Artifacts> {
  const manifestBytes = await read(manifestFile);
  const manifest = parseManifest(new TextDecoder().decode(manifestBytes));
  const [manifestHash, tableFile, tokenFile] = await Promise.all([
    sha256Hex(manifestBytes),
    readVerified(read, edgeTableFile, manifest.files[edgeTableFile]),
    readVerified(read, tokenizerFile, manifest.files[tokenizerFile]),
  ]);
  const { table, centroids } = readEdgeTable(tableFile);
  const tokenizer = Tokenizer.fromTensors(tokenFile);
  agree("centroids", manifest.centroids.length, edgeTableFile, centroids.count);
  agree("dimensions", manifest.embedding.dimensions, edgeTableFile, table.dimensions);
  agree("vocabulary entries", manifest.model.vocabularySize, edgeTableFile, table.vocabularySize);
  agree("vocabulary entries", manifest.model.vocabularySize, tokenizerFile, tokenizer.vocabularySize);
  const chatTemplate = new ChatTemplate(manifest.model.chatTemplate ?? null, tokenizer);
  const set = { manifest, manifestHash, tokenizer, chatTemplate, table, centroids };
  setNewest(held, manifestHash, set, mostHeldSets);
  return set;
}

/** One that this isolate has loaded, if it has it still. */
export function heldSet(manifestHash: string): Artifacts | null {
  return held.get(manifestHash) ?? null;
}

/** The failure that a caller is told. */
export function artifactsMissing(cause: unknown): ServiceError {
  const message = "The model's tables are not available at the edge.";
  return new ServiceError("backend_unavailable", message, { retryAfterSeconds: 2, cause });
}

/** Runs `load` once and keeps its promise; after a failure the next caller tries again. */
export function loadOnce<T>(load: () => Promise<T>): () => Promise<T> {
  let loading: Promise<T> | null = null;
  return () => {
    loading ??= load().catch((error) => {
      loading = null;
      throw error;
    });
    return loading;
  };
}

async function readVerified(read: ReadArtifact, name: string, record: FileRecord | undefined): Promise<TensorFile> {
  if (!record) throw new Error(`manifest.json does not list ${name}`);
  if (record.bytes > mostArtifactBytes) {
    throw new Error(`${name} has ${record.bytes} bytes; the edge holds files of at most ${mostArtifactBytes}`);
  }
  const bytes = await read(name, record.sha256);
  const actual = await sha256Hex(bytes);
  if (actual !== record.sha256) {
    throw new Error(
      `${name} has ${bytes.byteLength} bytes of SHA-256 ${actual}; the manifest says ${record.bytes}, ${record.sha256}`,
    );
  }
  return readTensorFile(bytes);
}

function agree(what: string, expected: number, file: string, actual: number): void {
  if (actual !== expected) throw new Error(`${file} has ${actual} ${what}, the manifest says ${expected}`);
}
