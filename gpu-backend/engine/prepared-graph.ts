/**
 * Keeps the graph that a model was made into, so that the next start opens it without reading the weights: a folder for each
 * key, with the graph and a file of its constants, which ONNX Runtime maps into memory. A folder gets its name when it is whole;
 * where the disk cannot take it, the graph is built in memory.
 */
import { createHash } from "node:crypto";
import { closeSync, fsyncSync, mkdirSync, mkdtempSync, openSync, writeFileSync, writeSync } from "node:fs";
import { readdir, readFile, rename, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { removeUnfinished, unfinishedPrefix } from "../files.ts";
import type { ConstantFile } from "../runtime/graph.ts";

/** Folders that stay: of the served set and of one before or beside it. */
const kept = 2;
/** A page of memory, so that each constant can be mapped by itself. */
const alignment = 4096;
const graphFile = "graph.onnx";
const constantsFile = "constants.bin";

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
  /** A graph's time is that of its last use. */
  const markUsed = () => utimes(graph, new Date(now()), new Date(now()));
  const isThere = await markUsed().then(
    () => true,
    () => false,
  );
  if (isThere) return { graph, warning: null };
  let unfinished: string | null = null;
  try {
    mkdirSync(folder, { recursive: true });
    unfinished = mkdtempSync(join(folder, unfinishedPrefix));
    writeGraph(unfinished, build);
    await rename(unfinished, path);
    await markUsed();
  } catch (error) {
    if (unfinished) await rm(unfinished, { recursive: true, force: true });
    if (!isSystemError(error)) throw error;
    return { graph: build(), warning: `the prepared graph is not kept: ${error.message}` };
  }
  await removeOthers(folder, now());
  return { graph, warning: null };
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
    writeFileSync(join(folder, graphFile), build({ name: constantsFile, append }), { flush: true });
    fsyncSync(constants);
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

/** SHA-256 of the code that builds graphs: another one makes another graph of the same weights. */
export async function graphCodeHash(): Promise<string> {
  const folder = join(import.meta.dirname, "../runtime");
  const hash = createHash("sha256");
  for (const name of (await readdir(folder)).sort()) hash.update(name).update(await readFile(join(folder, name)));
  return hash.digest("hex");
}

function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && "syscall" in error;
}
