/**
 * From a hub id or a local folder to a folder that can be served: files, then artifacts. A file gets its name only when it is
 * complete and verified, and everything that can be refused is refused before the weights are fetched.
 */
import { existsSync } from "node:fs";
import { constants, copyFile, mkdir, readdir, rename, rm, stat, statfs } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { type Manifest, manifestFile } from "../../../shared/artifacts/manifest.ts";
import { artifactsOf, readArtifacts } from "../../engine/artifacts.ts";
import { smoothingFile } from "../../engine/smoothing-file.ts";
import { nullIfMissing, readFileAtMost } from "../../files.ts";
import { parametersOf } from "../../runtime/model-weights.ts";
import { readChatTemplate } from "../../training/chat-template-file.ts";
import type { Progress } from "../../training/progress.ts";
import { ggufFile, hashOfBase, hashOfParts, readBaseConfig, readBaseText } from "../base.ts";
import { openGgufModel } from "../gguf/model.ts";
import { existsInParts } from "../gguf/part-files.ts";
import { publishBaseArtifacts } from "./base-artifacts.ts";
import { checksumOf, hasChecksum } from "./checksum.ts";
import { download, partialPath, sizeOf } from "./download.ts";
import { openRepository, type Repository } from "./hub.ts";
import type { HubAccess } from "./hub-fetch.ts";
import {
  checkFileSize,
  checkWeightsHold,
  chooseFiles,
  configFile,
  maxConfigBytes,
  weightsFile,
} from "./model-files.ts";
import { peftConfigFile, peftRefusal } from "./peft.ts";

export interface ImportOptions {
  /** A hub id, a folder or a GGUF file. */
  source: string;
  /** Where the model goes; null: `.cache/models/<hub id or file's name>`, or the folder itself. */
  out: string | null;
  /** Branch, tag or commit of the hub; null: main. */
  revision: string | null;
}

export interface Imported {
  folder: string;
  manifest: Manifest;
  /** True if the folder had artifacts that fit: they stay, as training may have made them. */
  keptArtifacts: boolean;
}

const defaultFolder = ".cache/models";
const ggufEnding = ".gguf";
const hubId = /^[A-Za-z0-9][\w.-]*(\/(?!\.)[\w.-]+)?$/;
const MiB = 2 ** 20;

/** Throws an Error of one line, or the signal's reason when aborted; the same options resume from there. */
export async function importModel(options: ImportOptions, access: HubAccess, progress: Progress): Promise<Imported> {
  const { source } = options;
  const isFolder = await isDirectory(source);
  const gguf = isFolder ? join(source, ggufFile) : source;
  const isGguf = gguf.endsWith(ggufEnding) && existsInParts(gguf);
  const isHere = isGguf || isFolder;
  if (isHere && options.revision) throw new Error(`${source} is here; --revision is for models of the hub`);
  if (!isHere && !hubId.test(source)) {
    throw new Error(`${source} is neither a folder or ${ggufEnding} file here nor a model id of the hub`);
  }
  const name = isHere ? basename(resolve(source), ggufEnding) : source;
  const folder = options.out ?? (isFolder ? source : join(defaultFolder, name));
  if (isGguf) await copyGguf(gguf, folder);
  else if (isFolder) await copyFolder(source, folder);
  else await downloadModel(source, options.revision ?? "main", folder, access, progress);

  access.signal?.throwIfAborted();
  const keptArtifacts = existsSync(manifestOf(folder));
  if (!keptArtifacts) {
    progress.note("making artifacts; up to a minute at 768 dimensions…");
    await publishBaseArtifacts(folder, name);
  }
  // As serving will read it, every hash of it.
  const { manifest, model } = await readArtifacts(folder);
  model.close();
  return { folder, manifest, keptArtifacts };
}

async function downloadModel(name: string, revision: string, folder: string, access: HubAccess, progress: Progress) {
  const repository = await openRepository(name, revision, access);
  const where = `${repository.id} on ${access.endpoint}`;
  const adapter = repository.files.has(configFile) ? undefined : repository.files.get(peftConfigFile);
  if (adapter) {
    checkFileSize(adapter.name, adapter.bytes, where);
    throw peftRefusal(await (await repository.fetch(adapter.url)).text(), where);
  }
  const files = chooseFiles(new Set(repository.files.keys()), where).map((file) => repository.files.get(file)!);
  const weights = repository.files.get(weightsFile)!;
  for (const { name, bytes } of files) checkFileSize(name, bytes, where);
  if (!(await hasChecksum(join(folder, weightsFile), weights.checksum))) await removeOtherBase(folder);
  await mkdir(folder, { recursive: true });
  await checkSpace(folder, repository);
  progress.note(`${repository.id} at ${repository.commit}`);

  progress.stage("download MiB", toMiB(files.reduce((sum, { bytes }) => sum + bytes, 0)));
  let before = 0;
  for (const file of files) {
    if (file === weights) await checkSmallFiles(folder, weights.bytes);
    await download(file, folder, repository.fetch, access, (bytes) =>
      progress.advance(toMiB(before + bytes), file.name),
    );
    before += file.bytes;
  }
  progress.end();
}

/** Refuses what config or tokenizer show, before the weights are fetched. */
async function checkSmallFiles(folder: string, weightsBytes: number): Promise<void> {
  const config = await readBaseConfig(folder);
  checkWeightsHold(parametersOf(config), weightsBytes, folder);
  await readChatTemplate(folder, await readBaseText(folder, config));
}

async function copyFolder(source: string, folder: string): Promise<void> {
  const present = new Set(await readdir(source));
  if (present.has(peftConfigFile) && !present.has(configFile)) {
    const text = await readFileAtMost(join(source, peftConfigFile), maxConfigBytes);
    checkFileSize(peftConfigFile, text.length, source);
    throw peftRefusal(new TextDecoder().decode(text), source);
  }
  const files = chooseFiles(present, source);
  const bytes = new Map<string, number>();
  for (const name of files) bytes.set(name, (await stat(join(source, name))).size);
  for (const [name, size] of bytes) checkFileSize(name, size, source);
  await checkSmallFiles(source, bytes.get(weightsFile)!);
  if (resolve(source) === resolve(folder)) return;
  const weights = await checksumOf(join(source, weightsFile), "sha256");
  if (!(await hasChecksum(join(folder, weightsFile), weights))) await removeOtherBase(folder);
  await mkdir(folder, { recursive: true });
  for (const name of files) await copyWhole(join(source, name), join(folder, name));
}

/** Brings a file, or its parts, to the folder under the one name that is served; checked before, it is not copied in vain. */
async function copyGguf(source: string, folder: string): Promise<void> {
  const { file } = openGgufModel(source);
  const hash = hashOfParts(file);
  file.close();
  const isSame = () => hashOfBase(folder) === hash;
  if (isSame()) return;
  await removeOtherBase(folder);
  await mkdir(folder, { recursive: true });
  for (const part of file.parts) await copyWhole(part, join(folder, ggufFile + part.slice(source.length)));
  if (!isSame()) throw new Error(`${source} changed while it was copied`);
}

/** A file gets its name only when it is complete. */
async function copyWhole(from: string, to: string): Promise<void> {
  if (resolve(from) === resolve(to)) return;
  const partial = `${to}.partial`;
  try {
    await copyFile(from, partial, constants.COPYFILE_FICLONE);
    await rename(partial, to);
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
}

/**
 * Removes what an import that was killed left in the folder of another base: a folder holds one. Throws an Error where artifacts
 * were made for that one.
 */
async function removeOtherBase(folder: string): Promise<void> {
  if (existsSync(manifestOf(folder))) {
    throw new Error(`${folder}/artifacts was made for other weights; choose another --out, or delete that folder`);
  }
  const names = await readdir(folder).catch(nullIfMissing);
  for (const name of names ?? []) {
    if (name.startsWith(ggufFile) || name === smoothingFile) await rm(join(folder, name));
  }
}

/** Throws an Error with both figures where the disk cannot hold what is still to come. */
async function checkSpace(folder: string, { files }: Repository): Promise<void> {
  const weights = files.get(weightsFile)!;
  const { bytes: needed, checksum, name } = weights;
  if (await hasChecksum(join(folder, name), checksum)) return;
  const present = await sizeOf(partialPath(join(folder, name), weights));
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize >= needed - present) return;
  throw new Error(`${folder} has ${toMiB(bavail * bsize)} MiB free; ${name} takes ${toMiB(needed - present)} MiB more`);
}

function manifestOf(folder: string): string {
  return join(artifactsOf(folder), manifestFile);
}

function toMiB(bytes: number): number {
  return Math.ceil(bytes / MiB);
}

async function isDirectory(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}
