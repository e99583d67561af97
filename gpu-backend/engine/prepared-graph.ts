/**
 * Keeps the graph that was built from a model, so that the next start opens it without reading the weights. Each graph has a folder named
 * by its key, with the graph, a file of its constants, which ONNX Runtime maps into memory, and the sizes of both files. A folder gets its
 * name only when it is complete, and is built again if a file is missing or has another size. If the disk fails, the graph is built in memory.
 */
import { createHash } from "node:crypto";
import { closeSync, fstatSync, fsyncSync, mkdirSync, mkdtempSync, openSync, writeFileSync, writeSync } from "node:fs";
import { readdir, readFile, rename, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import { removeUnfinished, unfinishedPrefix } from "../files.ts";
import type { ConstantFile } from "../runtime/graph.ts";
import type { ModelConfig } from "../runtime/model-config.ts";
import type { WeightFormat } from "../runtime/products.ts";

/** Number of kept folders: one for the served set, and one for a set before or beside it. */
const kept = 2;
/** Milliseconds after which an unfinished folder must belong to a killed process. */
const oldUnfinishedMs = 3_600_000;
/** Each constant begins at a multiple of this many bytes, a page of memory, because constants are mapped into memory one by one. */
const alignment = 4096;
const graphFile = "graph.onnx";
const constantsFile = "constants.bin";
/** Bytes of both files, written last. */
const sizesFile = "sizes.txt";

/** Builds a graph and returns its bytes. If `file` is given, the constants are written to `file` and are not among the bytes. */
type BuildGraph = (file?: ConstantFile) => Uint8Array;

/** The path of the kept or newly built graph of `key`, or its bytes and a warning if the disk cannot keep it. Throws as `build` does. */
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
        // Another process has written the same graph meanwhile.
        if (!(await isWhole(path))) throw error;
      });
    }
  } catch (error) {
    if (!isSystemError(error)) throw error;
    return { graph: build(), warning: `the prepared graph is not kept: ${error.message}` };
  } finally {
    if (unfinished) await rm(unfinished, { recursive: true, force: true }).catch(() => undefined);
  }
  // Marks the graph as just used. `removeOthers` removes the graphs that were used longest ago.
  await utimes(graph, new Date(now()), new Date(now())).catch(() => undefined);
  if (unfinished) await removeOthers(folder, now()).catch(() => undefined);
  return { graph, warning: null };
}

/** Whether both files have their written sizes. Throws errors of the file system other than a missing file. */
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

/** Removes all but the last used folders, and unfinished folders of killed processes. */
async function removeOthers(folder: string, nowMs: number): Promise<void> {
  const names = (await readdir(folder)).filter((name) => !name.startsWith("."));
  const used = new Map<string, number>();
  for (const name of names) used.set(name, (await stat(join(folder, name, graphFile)).catch(() => null))?.mtimeMs ?? 0);
  const old = names.sort((a, b) => used.get(b)! - used.get(a)!).slice(kept);
  for (const name of old) await rm(join(folder, name), { recursive: true, force: true }).catch(() => undefined);
  await removeUnfinished(folder, nowMs - oldUnfinishedMs);
}

/** Everything that a graph depends on, except the code. */
export interface GraphSource {
  config: ModelConfig;
  /** SHA-256 of the weights. `manifest` and `smoothing` are hashes, too: of manifest.json and of smoothing.safetensors. */
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

/** SHA-256 of the code in `codeFolders`, because other code may build another graph of the same weights. */
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
