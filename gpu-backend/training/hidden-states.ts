/// <reference lib="esnext.float16" />
/** Hidden states that predict windows' scored tokens are computed once and kept as float16, because no adapter changes them. */
import type { TrunkRunner } from "../runtime/trunk-runner.ts";
import { prefixTokens, scoredTokens, type Window } from "./corpus/windows.ts";
import { type Run, resultsOf } from "./run.ts";

/** Fixed, because another number may change the last bit, and a resumed run must give the same bytes. */
const windowsPerPass = 8;

export interface WindowSet {
  windows: readonly Window[];
  statesOf(window: Window): Float32Array; // [scoredTokens, D]
}

export interface PlacedSet extends WindowSet {
  embeddings: Float32Array; // [windows, P], prompt embeddings of the prefixes
}

type Trunk = Pick<TrunkRunner, "hidden" | "release">;

/** Reads states from `run.folder` if they are there. Opens the trunk only if some are missing. */
export async function hiddenStatesOf(
  windows: readonly Window[],
  weightsHash: string,
  openTrunk: () => Promise<Trunk>,
  run: Run,
): Promise<WindowSet["statesOf"]> {
  const parts = Array.from({ length: Math.ceil(windows.length / windowsPerPass) }, (_, i) => {
    const pass = windows.slice(i * windowsPerPass, (i + 1) * windowsPerPass);
    return { pass, name: "", key: [weightsHash, pass.map(({ tokenIds }) => [...tokenIds])] };
  });
  let trunk: Promise<Trunk> | undefined;
  const compute = async ({ pass }: { pass: Window[] }) => {
    trunk ??= openTrunk();
    return passOf(pass, await trunk);
  };
  try {
    const passes = await resultsOf("hidden states", parts, compute, run);
    const states = new Map(passes.flat().map((halves, i) => [windows[i], halves]));
    return (window) => {
      const { buffer, byteOffset, length } = states.get(window)!;
      return Float32Array.from(new Float16Array(buffer, byteOffset, length));
    };
  } finally {
    await (await trunk)?.release();
  }
}

export type Stated<T> = T & {
  /** States before the last feed-forward part, [T, D]: the keys and queries of memories. */
  states: Float32Array;
  /** Hidden states after the last layer norm, [T, D]. */
  hidden: Float32Array;
};

export async function statesOf<T extends { ids: ArrayLike<number> }>(
  texts: readonly T[],
  trunk: Pick<TrunkRunner, "states">,
): Promise<Stated<T>[]> {
  const stated: Stated<T>[] = [];
  for (let from = 0; from < texts.length; from += windowsPerPass) {
    const pass = texts.slice(from, from + windowsPerPass);
    const { tokenIds, T } = rightPadded(pass.map(({ ids }) => ids));
    const { states, hidden } = await trunk.states(tokenIds, pass.length, T); // [S, T, D] each
    const D = hidden.length / tokenIds.length;
    for (const [s, text] of pass.entries()) {
      const [start, end] = [s * T * D, (s * T + text.ids.length) * D];
      stated.push({ ...text, states: states.subarray(start, end), hidden: hidden.subarray(start, end) });
    }
  }
  return stated;
}

/** Returns float16 bits, [scoredTokens, D], for each window. */
async function passOf(windows: readonly Window[], trunk: Trunk): Promise<Uint16Array[]> {
  const { tokenIds, T } = rightPadded(windows.map((window) => window.tokenIds));
  const hidden = await trunk.hidden(tokenIds, windows.length, T); // [S, T, D]
  const D = hidden.length / tokenIds.length;
  return windows.map((window, s) => {
    const first = (s * T + prefixTokens - 1) * D;
    const halves = new Float16Array(hidden.subarray(first, first + scoredTokens(window) * D));
    return new Uint16Array(halves.buffer);
  });
}

/** `tokenIds` are [S, T], where T is the length of the longest of S texts. Padding is id 0. */
export function rightPadded(texts: readonly ArrayLike<number>[]): { tokenIds: Int32Array; T: number } {
  const T = Math.max(...texts.map(({ length }) => length));
  const tokenIds = new Int32Array(texts.length * T);
  for (const [s, ids] of texts.entries()) tokenIds.set(ids, s * T);
  return { tokenIds, T };
}
