/**
 * Everything that is served: weights of a model folder, and of a folder of artifacts tokenizer, hyper-network and the
 * manifest that binds them. Nothing is taken on trust: each file is held against the hash in the manifest.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  hyperNetworkFile,
  type Manifest,
  manifestFile,
  parseManifest,
  tokenizerFile,
} from "../../shared/artifacts/manifest.ts";
import { readTensorFile, type TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { type ModelFolder, readModelFolder } from "../runtime/model-folder.ts";

export interface Artifacts {
  model: ModelFolder;
  manifest: Manifest;
  /** SHA-256 of manifest.json. */
  manifestHash: string;
  tokenizer: Tokenizer;
  hyperNetwork: TensorFile;
}

/** Where a model folder has its own artifacts. */
export function artifactsOf(modelDirectory: string): string {
  return join(modelDirectory, "artifacts");
}

/** Reads and checks a model folder and a folder of artifacts for it. Throws an Error that names the file and both values. */
export async function readArtifacts(
  modelDirectory: string,
  directory = artifactsOf(modelDirectory),
): Promise<Artifacts> {
  const model = await readModelFolder(modelDirectory);
  const manifestBytes = await readFile(join(directory, manifestFile));
  const manifest = parseManifest(manifestBytes.toString("utf8"));
  checkModel(manifest, model);
  const tokenizer = Tokenizer.fromTensors(await readListedFile(directory, manifest, tokenizerFile));
  requireEqual(`${tokenizerFile}: vocabulary size`, tokenizer.vocabularySize, manifest.model.vocabularySize);
  requireEqual(`${tokenizerFile}: end-of-text id`, tokenizer.endOfTextId, manifest.model.endOfTextId);
  const hyperNetwork = await readListedFile(directory, manifest, hyperNetworkFile);
  requireEqual("manifest.json: hyperNetwork.hash", manifest.hyperNetwork.hash, manifest.files[hyperNetworkFile].sha256);
  return { model, manifest, manifestHash: sha256(manifestBytes), tokenizer, hyperNetwork };
}

function checkModel({ model: wanted }: Manifest, { config, weightsHash }: ModelFolder): void {
  requireEqual("model.safetensors: SHA-256", weightsHash, wanted.weights);
  requireEqual("config.json: vocab_size", config.vocabularySize, wanted.vocabularySize);
  requireEqual("config.json: n_embd", config.hiddenSize, wanted.hiddenSize);
  requireEqual("config.json: n_layer", config.layers, wanted.layers);
  requireEqual("config.json: n_head", config.heads, wanted.heads);
  requireEqual("config.json: n_positions", config.contextTokens, wanted.contextTokens);
  requireEqual("config.json: eos_token_id", config.endOfTextId, wanted.endOfTextId);
}

async function readListedFile(directory: string, manifest: Manifest, name: string): Promise<TensorFile> {
  const record = manifest.files[name];
  if (!record) throw new Error(`manifest.json lists no ${name}; it has ${Object.keys(manifest.files).join(", ")}`);
  const bytes = await readFile(join(directory, name));
  requireEqual(`${name}: SHA-256`, sha256(bytes), record.sha256);
  return readTensorFile(bytes);
}

function requireEqual(what: string, found: string | number, wanted: string | number): void {
  if (found !== wanted) throw new Error(`${what} is ${found}, the manifest says ${wanted}`);
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
