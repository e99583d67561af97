import { join } from "node:path";
import { setLimits } from "../../shared/artifacts/limits.ts";
import {
  hyperNetworkFile,
  type Manifest,
  manifestFile,
  memoriesFile,
  parseManifest,
  type SetFile,
  tokenizerFile,
} from "../../shared/artifacts/manifest.ts";
import { requireFile } from "../../shared/artifacts/set-file.ts";
import { readTensorFile, type TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { sha256Hex } from "../../shared/bytes.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { requireHyperNetwork } from "../adapters/generated/hyper-network.ts";
import { readFileAtMost } from "../files.ts";
import { type Excerpt, readExcerpts } from "../memory/centroid-memories.ts";
import { type Base, openBase } from "../models/base.ts";
import type { HashRecord } from "../models/weights-record.ts";

export type Artifacts = Awaited<ReturnType<typeof readArtifacts>>;

export function artifactsOf(modelDirectory: string): string {
  return join(modelDirectory, "artifacts");
}

/** The caller must close the returned model. Throws an Error that names the faulty file. */
export async function readArtifacts(
  modelDirectory: string,
  directory = artifactsOf(modelDirectory),
  record?: HashRecord,
) {
  const base = await openBase(modelDirectory, record);
  try {
    const manifestBytes = await readFileAtMost(join(directory, manifestFile), setLimits.manifestBytes);
    const manifest = parseManifest(new TextDecoder().decode(manifestBytes));
    checkModel(manifest, base);
    // The manifest has all stop ids, the model's own file may lack some.
    const model: Base = { ...base, config: { ...base.config, stopIds: manifest.model.stopIds } };
    const tokenizer = await readTokenizer(directory, manifest);
    const hyperNetwork = await readListedFile(directory, manifest, hyperNetworkFile);
    requireHyperNetwork(manifest, hyperNetwork);
    await readMemories(directory, manifest); // Checks the file, which other processes read.
    return { model, manifest, manifestHash: await sha256Hex(manifestBytes), tokenizer, hyperNetwork };
  } catch (error) {
    base.close();
    throw error;
  }
}

export async function readTokenizer(directory: string, manifest: Manifest): Promise<Tokenizer> {
  const tokenizer = Tokenizer.fromTensors(await readListedFile(directory, manifest, tokenizerFile));
  requireEqual(`${tokenizerFile}: vocabulary size`, tokenizer.vocabularySize, manifest.model.vocabularySize);
  tokenizer.requireSpecial(manifest.model.stopIds);
  return tokenizer;
}

/** The manifest may have a shorter context than the model, and more stop ids. */
function checkModel({ model: wanted }: Manifest, { config, weightsFile, weightsHash }: Base): void {
  requireEqual(`${weightsFile}: SHA-256`, weightsHash, wanted.weights);
  requireEqual("the model's vocabulary size", config.vocabularySize, wanted.vocabularySize);
  requireEqual("the model's hidden size", config.hiddenSize, wanted.hiddenSize);
  if (wanted.contextTokens <= config.contextTokens) return;
  throw new Error(`the model's context is ${config.contextTokens} tokens, manifest.json says ${wanted.contextTokens}`);
}

/** Excerpts of each centroid's memory. */
export async function readMemories(directory: string, manifest: Manifest): Promise<Excerpt[][]> {
  if (!manifest.files[memoriesFile]) return manifest.centroids.map(() => []);
  return readExcerpts(await readListedFile(directory, manifest, memoriesFile), manifest);
}

async function readListedFile(directory: string, { files }: Manifest, name: SetFile): Promise<TensorFile> {
  const record = files[name]!;
  const bytes = await readFileAtMost(join(directory, name), record.bytes);
  await requireFile(name, bytes, record);
  return readTensorFile(bytes, name);
}

function requireEqual(what: string, found: string | number, wanted: string | number): void {
  if (found !== wanted) throw new Error(`${what} is ${found}, manifest.json says ${wanted}`);
}
