/** Keeps a built graph, so that the next start need not read the weights. A folder gets its name only when complete. */
import { createHash } from "node:crypto";
import { closeSync, fstatSync, fsyncSync, mkdirSync, mkdtempSync, openSync, writeFileSync, writeSync } from "node:fs";
import { readdir, readFile, rename, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { removeUnfinished, unfinishedPrefix } from "../files.ts";
import type { ConstantFile } from "../runtime/graph.ts";
import type { ModelConfig } from "../runtime/model-config.ts";
import type { WeightFormat } from "../runtime/products.ts";

/** Number of kept folders: one for the served set, one for the previous or next set. */
const kept = 2;
/** Age after which an unfinished folder must belong to a killed process. */
const oldUnfinishedMs = 3_600_000;
/** The size of a memory page, because constants are mapped into memory one by one. */
const alignment = 4096;
const graphFile = "graph.onnx";
const constantsFile = "constants.bin";
/** Holds the sizes of both files. Written last. */
const sizesFile = "sizes.txt";

/** With `file`, constants are written there and not into the result. */
type BuildGraph = (file?: ConstantFile) => Uint8Array;

/** Returns the graph's path, or the graph's bytes and a warning if the disk cannot keep the graph. */
export async function preparedGraph(
  folder: string,
  key: string,
  build: BuildGraph,
  now: () => number,
): Promise<{ graph: string | Uint8Array; warning: string | null }> {
  const path = join(folder, key);
  const graph = join(path, graphFile);
  let unfinished: string | null = null;
  try {
    if (!(await isWhole(path))) {
      await rm(path, { recursive: true, force: true });
      mkdirSync(folder, { recursive: true });
      unfinished = mkdtempSync(join(folder, unfinishedPrefix));
      writeGraph(unfinished, build);
      await rename(unfinished, path).catch(async (error) => {
        // Another process has written the same graph in the meantime.
        if (!(await isWhole(path))) throw error;
      });
    }
  } catch (error) {
    if (!isSystemError(error)) throw error;
    return { graph: build(), warning: `the prepared graph is not kept: ${error.message}` };
  } finally {
    if (unfinished) await rm(unfinished, { recursive: true, force: true }).catch(() => undefined);
  }
  // Marks the graph as used, because `removeOthers` removes the least recently used graphs.
  await utimes(graph, new Date(now()), new Date(now())).catch(() => undefined);
  if (unfinished) await removeOthers(folder, now()).catch(() => undefined);
  return { graph, warning: null };
}

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

async function removeOthers(folder: string, nowMs: number): Promise<void> {
  const names = (await readdir(folder)).filter((name) => !name.startsWith("."));
  const used = new Map<string, number>();
  for (const name of names) used.set(name, (await stat(join(folder, name, graphFile)).catch(() => null))?.mtimeMs ?? 0);
  const old = names.sort((a, b) => used.get(b)! - used.get(a)!).slice(kept);
  for (const name of old) await rm(join(folder, name), { recursive: true, force: true }).catch(() => undefined);
  await removeUnfinished(folder, nowMs - oldUnfinishedMs);
}

export interface GraphSource {
  config: ModelConfig;
  /** SHA-256 of the weights. `manifest` and `smoothing` are hashes, too. */
  weights: string;
  manifest: string;
  smoothing: string | undefined;
  format: WeightFormat;
}

export async function graphKey(source: GraphSource): Promise<string> {
  return createHash("sha256")
    .update(JSON.stringify([await graphCodeHash(), source]))
    .digest("hex");
}

/** Folders of the code that reads weights and builds graphs. */
const codeFolders = [
  ...["gpu-backend/models", "gpu-backend/models/gguf", "gpu-backend/models/safetensors", "gpu-backend/runtime"],
  ...["shared", "shared/math", "shared/artifacts"],
];

/** A part of the graph's key, because other code may build another graph of the same weights. */
export async function graphCodeHash(code = join(import.meta.dirname, "../..")): Promise<string> {
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
