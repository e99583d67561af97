/** Imports a model. All checks that need no weights come before their download. */
import { existsSync } from "node:fs";
import { constants, copyFile, mkdir, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { manifestFile } from "../../../shared/artifacts/manifest.ts";
import { artifactsOf, readArtifacts } from "../../engine/artifacts.ts";
import { smoothingFile } from "../../engine/smoothing-file.ts";
import { nullIfMissing } from "../../files.ts";
import { parametersOf } from "../../runtime/model-weights.ts";
import { readChatTemplate } from "../../training/chat-template-file.ts";
import type { Progress } from "../../training/progress.ts";
import { ggufFile, hashOfGguf, readBaseConfig, readBaseText } from "../base.ts";
import { openGgufModel } from "../gguf/model.ts";
import { existsInParts } from "../gguf/part-files.ts";
import { publishBaseArtifacts, smoothBase } from "./base-artifacts.ts";
import { checksumOf, hasChecksum } from "./checksum.ts";
import { download, missingBytes } from "./download.ts";
import { requireFreeSpace } from "./free-space.ts";
import { openRepository } from "./hub.ts";
import type { HubAccess } from "./hub-fetch.ts";
import { checkFileSize, checkWeightsHold, chooseFiles, weightsFile } from "./model-files.ts";

export interface ImportOptions {
  source: string;
  /** null: the source folder itself, or `.cache/models/<hub id or file name>`. */
  out: string | null;
  /** Branch, tag or commit. null: main. */
  revision: string | null;
}

const defaultFolder = ".cache/models";
const ggufEnding = ".gguf";
const hubId = /^[A-Za-z0-9][\w.-]*(\/(?!\.)[\w.-]+)?$/;
const MiB = 2 ** 20;

/** Another call with the same options resumes. */
export async function importModel(options: ImportOptions, access: HubAccess, progress: Progress) {
  const { source } = options;
  const isFolder = (await stat(source).catch(() => null))?.isDirectory() ?? false;
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
  // Artifacts are kept, because training may have made them.
  const keptArtifacts = existsSync(manifestOf(folder));
  if (!keptArtifacts) {
    progress.note("making artifacts; up to a minute at 768 dimensions…");
    await publishBaseArtifacts(folder, name);
  }
  await smoothBase(folder);
  // Makes the same checks as serving.
  const { manifest, model } = await readArtifacts(folder);
  model.close();
  return { folder, manifest, keptArtifacts };
}

async function downloadModel(name: string, revision: string, folder: string, access: HubAccess, progress: Progress) {
  const repository = await openRepository(name, revision, access);
  const where = `${repository.id} on ${access.endpoint}`;
  const files = chooseFiles(new Set(repository.files.keys()), where).map((file) => repository.files.get(file)!);
  const weights = repository.files.get(weightsFile)!;
  for (const { name, bytes } of files) checkFileSize(name, bytes, where);
  if (!(await hasChecksum(join(folder, weightsFile), weights.checksum))) await removeOtherBase(folder);
  const missing = await Promise.all(files.map((file) => missingBytes(file, folder)));
  await requireFreeSpace(folder, missing);
  await mkdir(folder, { recursive: true });
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

async function checkSmallFiles(folder: string, weightsBytes: number): Promise<void> {
  const { model: config } = await readBaseConfig(folder);
  checkWeightsHold(parametersOf(config), weightsBytes, folder);
  await readChatTemplate(folder, await readBaseText(folder, config));
}

async function copyFolder(source: string, folder: string): Promise<void> {
  const files = chooseFiles(new Set(await readdir(source)), source);
  const bytes = new Map<string, number>();
  for (const name of files) bytes.set(name, (await stat(join(source, name))).size);
  for (const [name, size] of bytes) checkFileSize(name, size, source);
  await checkSmallFiles(source, bytes.get(weightsFile)!);
  if (resolve(source) === resolve(folder)) return;
  const weights = await checksumOf(join(source, weightsFile), "sha256");
  if (!(await hasChecksum(join(folder, weightsFile), weights))) {
    await removeOtherBase(folder);
    await requireFreeSpace(folder, [...bytes.values()]);
  }
  await mkdir(folder, { recursive: true });
  for (const name of files) await copyWhole(join(source, name), join(folder, name));
}

async function copyGguf(source: string, folder: string): Promise<void> {
  const { file } = openGgufModel(source);
  file.close();
  const hash = hashOfGguf(source);
  const target = join(folder, ggufFile);
  const isSame = () => existsInParts(target) && hashOfGguf(target) === hash;
  if (isSame()) return;
  await removeOtherBase(folder);
  await requireFreeSpace(folder, [file.bytes]);
  await mkdir(folder, { recursive: true });
  for (const part of file.parts) await copyWhole(part, target + part.slice(source.length));
  if (!isSame()) throw new Error(`${source} changed while it was copied`);
}

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

/** A killed import may have left files of another base. */
async function removeOtherBase(folder: string): Promise<void> {
  if (existsSync(manifestOf(folder))) {
    throw new Error(`${folder}/artifacts was made for other weights; choose another --out, or delete that folder`);
  }
  const names = await readdir(folder).catch(nullIfMissing);
  for (const name of names ?? []) {
    if (name.startsWith(ggufFile) || name === smoothingFile) await rm(join(folder, name));
  }
}

function manifestOf(folder: string): string {
  return join(artifactsOf(folder), manifestFile);
}

function toMiB(bytes: number): number {
  return Math.ceil(bytes / MiB);
}
