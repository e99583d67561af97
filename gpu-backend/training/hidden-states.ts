/// <reference lib="esnext.float16" />
/**
 * Hidden states of windows, computed once by the trunk and kept on disk in half precision: a row [D] for each position that
 * predicts a scored token. Adapters never change them.
 */
import { existsSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { writeWhole } from "../files.ts";
import type { TrunkRunner } from "../runtime/trunk-runner.ts";
import { prefixTokens, scoredTokens, type Window, windowTokens } from "./corpus/windows.ts";
import type { Progress } from "./progress.ts";

/** Windows of one trunk pass and one file. Fixed: batching may change the last bit, and a resumed run must give the same bytes. */
const windowsPerPass = 8;
const bytesPerNumber = 2;

/** Windows of one split, and where their hidden states are. */
export interface WindowSet {
  windows: readonly Window[];
  states: Pick<HiddenStates, "read">;
}

/** With their prompt embeddings. */
export interface PlacedSet extends WindowSet {
  embeddings: Float32Array; // [windows, P]
}

export class HiddenStates {
  readonly #hiddenSize: number;
  /** Where the rows of each window begin: the file, and the byte in it. */
  readonly #places = new Map<Window, { path: string; byte: number }>();

  private constructor(hiddenSize: number) {
    this.#hiddenSize = hiddenSize;
  }

  /**
   * Opens what `folder` has of these windows. What is missing is computed by the trunk, which is opened only then.
   * @param key what names windows and weights
   * @throws the signal's reason when aborted; finished passes stay
   */
  static async open(
    folder: string,
    key: string,
    windows: readonly Window[],
    hiddenSize: number,
    openTrunk: () => Promise<Pick<TrunkRunner, "hidden" | "release">>,
    progress: Progress,
    signal?: AbortSignal,
  ): Promise<HiddenStates> {
    const states = new HiddenStates(hiddenSize);
    const missing: { path: string; pass: readonly Window[]; end: number }[] = [];
    for (let from = 0; from < windows.length; from += windowsPerPass) {
      const pass = windows.slice(from, from + windowsPerPass);
      const path = join(folder, `hidden-${key}-${from}.f16`);
      if (!existsSync(path)) missing.push({ path, pass, end: from + pass.length });
      let byte = 0;
      for (const window of pass) {
        states.#places.set(window, { path, byte });
        byte += scoredTokens(window) * hiddenSize * bytesPerNumber;
      }
    }
    if (missing.length === 0) return states;
    const tokens = missing.flatMap(({ pass }) => pass).reduce((sum, window) => sum + scoredTokens(window), 0);
    progress.note(`hidden states: ${Math.ceil((tokens * hiddenSize * bytesPerNumber) / 1e6)} MB in ${folder}`);
    progress.stage("hidden states", windows.length);
    const trunk = await openTrunk();
    try {
      for (const { path, pass, end } of missing) {
        signal?.throwIfAborted();
        const rows = await hiddenOf(pass, hiddenSize, trunk);
        await writeWhole(path, new Uint8Array(rows.buffer));
        progress.advance(end);
      }
    } finally {
      await trunk.release();
    }
    return states;
  }

  /** Hidden states of a window, [scoredTokens, D]. */
  async read(window: Window): Promise<Float32Array> {
    const { path, byte } = this.#places.get(window)!;
    const halves = new Float16Array(scoredTokens(window) * this.#hiddenSize);
    const file = await open(path);
    try {
      await file.read(new Uint8Array(halves.buffer), 0, halves.byteLength, byte);
    } finally {
      await file.close();
    }
    return Float32Array.from(halves);
  }
}

/** One trunk pass over right-padded windows; only the rows that predict a scored token are kept. */
async function hiddenOf(
  windows: readonly Window[],
  D: number,
  trunk: Pick<TrunkRunner, "hidden">,
): Promise<Float16Array<ArrayBuffer>> {
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
