/// <reference lib="esnext.float16" />
/**
 * Hidden states of windows, computed once by the trunk and cached on disk in half precision: a row [D] for each position that
 * predicts a scored token. Adapters never change them.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { type FileHandle, mkdir, open, rename } from "node:fs/promises";
import { dirname } from "node:path";
import type { TrunkRunner } from "../runtime/trunk-runner.ts";
import { prefixTokens, scoredTokens, type Window, windowTokens } from "./corpus/windows.ts";
import type { Progress } from "./progress.ts";

/** Windows per trunk pass. Fixed: batching may change the last bit, and a resumed run must give the same bytes. */
const windowsPerPass = 8;
const bytesPerNumber = 2;

type Trunk = Pick<TrunkRunner, "hidden" | "release">;

export class HiddenStates {
  readonly #file: FileHandle;
  readonly #offsets: Float64Array; // in rows, one per window and the end
  readonly #hiddenSize: number;

  private constructor(file: FileHandle, offsets: Float64Array, hiddenSize: number) {
    this.#file = file;
    this.#offsets = offsets;
    this.#hiddenSize = hiddenSize;
  }

  /**
   * Opens the cache at `path`. What is missing is computed by the trunk, which is opened only then; a partial file of an
   * interrupted run is continued.
   * @throws the signal's reason when aborted; what was computed stays
   */
  static async open(
    path: string,
    windows: readonly Window[],
    hiddenSize: number,
    openTrunk: () => Promise<Trunk>,
    progress: Progress,
    signal?: AbortSignal,
  ): Promise<HiddenStates> {
    const offsets = rowOffsets(windows);
    if (!existsSync(path)) {
      const megabytes = Math.ceil((offsets[windows.length] * hiddenSize * bytesPerNumber) / 1e6);
      progress.note(`hidden states: ${megabytes} MB in ${path}`);
      progress.stage("hidden states", windows.length);
      const trunk = await openTrunk();
      await compute(path, windows, offsets, hiddenSize, trunk, progress, signal).finally(() => trunk.release());
    }
    return new HiddenStates(await open(path, "r"), offsets, hiddenSize);
  }

  /** Hidden states of window `index`, [scoredTokens, D], written into `target` from element `at`. */
  async read(index: number, target: Float32Array, at: number): Promise<void> {
    const rows = this.#offsets[index + 1] - this.#offsets[index];
    const halves = new Float16Array(rows * this.#hiddenSize);
    const bytes = new Uint8Array(halves.buffer);
    await this.#file.read(bytes, 0, bytes.length, this.#offsets[index] * this.#hiddenSize * bytesPerNumber);
    target.set(halves, at);
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

/** A name for the cache of these windows under these weights. */
export function hiddenStatesKey(weightsHash: string, windows: readonly Window[]): string {
  const hash = createHash("sha256").update(weightsHash);
  for (const { tokenIds } of windows) hash.update(Int32Array.of(tokenIds.length)).update(tokenIds);
  return hash.digest("hex").slice(0, 16);
}

async function compute(
  path: string,
  windows: readonly Window[],
  offsets: Float64Array,
  hiddenSize: number,
  trunk: Trunk,
  progress: Progress,
  signal?: AbortSignal,
): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const partial = `${path}.partial`;
  const file = await open(partial, existsSync(partial) ? "r+" : "w+");
  try {
    const { size } = await file.stat();
    for (let from = 0; from < windows.length; from += windowsPerPass) {
      const to = Math.min(from + windowsPerPass, windows.length);
      if (offsets[to] * hiddenSize * bytesPerNumber <= size) continue;
      signal?.throwIfAborted();
      const rows = await hiddenOf(windows.slice(from, to), hiddenSize, trunk);
      await file.write(new Uint8Array(rows.buffer), 0, rows.byteLength, offsets[from] * hiddenSize * bytesPerNumber);
      progress.advance(to);
    }
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(partial, path);
}

/** One trunk pass over right-padded windows; only the rows that predict a scored token are kept. */
async function hiddenOf(windows: readonly Window[], D: number, trunk: Trunk): Promise<Float16Array> {
  const T = Math.min(windowTokens, Math.max(...windows.map((window) => window.tokenIds.length)));
  const tokenIds = new Int32Array(windows.length * T);
  for (const [s, window] of windows.entries()) tokenIds.set(window.tokenIds, s * T);
  const hidden = await trunk.hidden(tokenIds, windows.length, T); // [S, T, D]
  const result = new Float16Array(windows.reduce((rows, window) => rows + scoredTokens(window), 0) * D);
  let at = 0;
  for (const [s, window] of windows.entries()) {
    const first = (s * T + prefixTokens - 1) * D;
    const rows = hidden.subarray(first, first + scoredTokens(window) * D);
    result.set(rows, at);
    at += rows.length;
  }
  return result;
}

function rowOffsets(windows: readonly Window[]): Float64Array {
  const offsets = new Float64Array(windows.length + 1);
  for (const [i, window] of windows.entries()) offsets[i + 1] = offsets[i] + scoredTokens(window);
  return offsets;
}
