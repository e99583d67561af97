/**
 * Keeps the graph that a model was made into, so that the next start opens it without reading the weights: a folder for each
 * key, with the graph, a file of its constants, which ONNX Runtime maps into memory, and both files' sizes. A folder gets its
 * name when it is whole; one that is no longer whole is built again. Where the disk cannot take it, the graph is built in memory.
 */
import { createHash, randomUUID } from "node:crypto";
import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { readdir, readFile, rename, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { nullIfMissing, removeUnfinished, unfinishedPrefix } from "../files.ts";
import type { ConstantFile } from "../runtime/graph.ts";
import type { ModelConfig } from "../runtime/model-config.ts";
import type { WeightFormat } from "../runtime/products.ts";
import type { Device } from "../runtime/session.ts";

/** Folders that stay: of the served set and of one before or beside it. */
const kept = 2;
/** A page of memory, so that each constant can be mapped by itself. */
const alignment = 4096;
const graphFile = "graph.onnx";
const constantsFile = "constants.bin";
/** Both files' sizes in bytes, written last. */
const sizesFile = "sizes.txt";

/** Returns the graph's bytes. Constants go to `file` where it is given. */
export type BuildGraph = (file?: ConstantFile) => Uint8Array;

export interface PreparedGraph {
  /** A path, or the graph's bytes where it could not be kept. */
  graph: string | Uint8Array;
  /** Why it could not be kept. */
  warning: string | null;
}

/**
 * The graph of `key` (hexadecimal), from `folder` or built. `now` is a clock of Unix milliseconds. Throws what `build` throws,
 * and then nothing is left in the folder.
 */
export async function preparedGraph(
  folder: string,
  key: string,
  build: BuildGraph,
  now: () => number,
): Promise<PreparedGraph> {
  const path = join(folder, key);
  const graph = join(path, graphFile);
  let unfinished: string | null = null;
  try {
    if (!(await isWhole(path))) {
      if (existsSync(path)) await removeBroken(folder, path);
      mkdirSync(folder, { recursive: true });
      unfinished = mkdtempSync(join(folder, unfinishedPrefix));
      writeGraph(unfinished, build);
      await rename(unfinished, path).catch(async (error) => {
        // Another start was faster: its graph is this one.
        if (!(await isWhole(path))) throw error;
      });
    }
  } catch (error) {
    if (!isSystemError(error)) throw error;
    return { graph: build(), warning: `the prepared graph is not kept: ${error.message}` };
  } finally {
    // It is there only if it did not get its name.
    if (unfinished) await rm(unfinished, { recursive: true, force: true }).catch(() => undefined);
  }
  // A graph's time is that of its last use; one that cannot be marked is as good.
  await utimes(graph, new Date(now()), new Date(now())).catch(() => undefined);
  if (unfinished) await removeOthers(folder, now()).catch(() => undefined);
  return { graph, warning: null };
}

/** False where a file is missing or is not as long as it was written. Throws the system's other errors. */
async function isWhole(path: string): Promise<boolean> {
  try {
    return (await readFile(join(path, sizesFile), "utf8")) === (await sizesOf(path));
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return false;
    throw error;
  }
}

async function sizesOf(path: string): Promise<string> {
  const graph = await stat(join(path, graphFile));
  const constants = await stat(join(path, constantsFile));
  return `${graph.size} ${constants.size}\n`;
}

/** Removes what has the name of a graph and is not whole, unless another start has done so. It loses the name first, so that half of it cannot stay. */
async function removeBroken(folder: string, path: string): Promise<void> {
  const removed = join(folder, unfinishedPrefix + randomUUID());
  try {
    await rename(path, removed);
  } catch (error) {
    nullIfMissing(error as NodeJS.ErrnoException);
    return;
  }
  await rm(removed, { recursive: true, force: true }).catch(() => undefined);
}

function writeGraph(folder: string, build: BuildGraph): void {
  const constants = openSync(join(folder, constantsFile), "wx");
  try {
    let end = 0;
    const append = (bytes: Uint8Array) => {
      const start = Math.ceil(end / alignment) * alignment;
      for (let done = 0; done < bytes.length; )
        done += writeSync(constants, bytes, done, bytes.length - done, start + done);
      end = start + bytes.length;
      return start;
    };
    const graph = build({ name: constantsFile, append });
    writeFileSync(join(folder, graphFile), graph, { flush: true });
    fsyncSync(constants);
    writeFileSync(join(folder, sizesFile), `${graph.byteLength} ${fstatSync(constants).size}\n`, { flush: true });
  } finally {
    closeSync(constants);
  }
}

/** Removes all folders but those used last, and what killed processes left, as far as the disk allows. */
async function removeOthers(folder: string, nowMs: number): Promise<void> {
  const names = (await readdir(folder)).filter((name) => !name.startsWith("."));
  const used = new Map<string, number>();
  for (const name of names) used.set(name, (await stat(join(folder, name, graphFile)).catch(() => null))?.mtimeMs ?? 0);
  const old = names.sort((a, b) => used.get(b)! - used.get(a)!).slice(kept);
  for (const name of old) await rm(join(folder, name), { recursive: true, force: true }).catch(() => undefined);
  await removeUnfinished(folder, nowMs - oldUnfinishedMs);
}

/** An unfinished folder as old as this is of a process that was killed. */
const oldUnfinishedMs = 3_600_000;

/** All that a graph depends on beside the code. */
export interface GraphSource {
  config: ModelConfig;
  /** SHA-256 of the weights, of the manifest and of what int8 is smoothed by. */
  weights: string;
  manifest: string;
  smoothing: string | undefined;
  format: WeightFormat;
  device: Device;
}

/** The key of what the code makes of `source`. */
export async function graphKey(source: GraphSource): Promise<string> {
  return createHash("sha256")
    .update(JSON.stringify([await graphCodeHash(), source]))
    .digest("hex");
}

/** Folders of the code that reads weights and builds graphs of them. */
const codeFolders = ["models", "models/gguf", "models/safetensors", "runtime"];

/** SHA-256 of that code in the folder `code`, in a package as JavaScript: another one makes another graph of the same weights. */
export async function graphCodeHash(code = join(import.meta.dirname, "..")): Promise<string> {
  const hash = createHash("sha256");
  for (const folder of codeFolders) {
    const names = (await readdir(join(code, folder))).filter((name) => /\.[jt]s$/.test(name));
    for (const name of names.sort()) {
      const bytes = await readFile(join(code, folder, name));
      hash.update(`${folder}/${name} ${bytes.length}\n`).update(bytes);
    }
  }
  return hash.digest("hex");
}

function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && "syscall" in error;
}
