/// <reference lib="esnext.float16" />
/**
 * Hidden states of windows in half precision, computed once by the trunk: a row [D] for each position that predicts a scored token.
 * Adapters never change them.
 */
import type { TrunkRunner } from "../runtime/trunk-runner.ts";
import { prefixTokens, scoredTokens, type Window } from "./corpus/windows.ts";
import { type Run, resultsOf } from "./run.ts";

/** Windows per trunk pass. Fixed: batching may change the last bit, and a resumed run must give the same bytes. */
const windowsPerPass = 8;

/** Windows of one split. */
export interface WindowSet {
  windows: readonly Window[];
  /** Hidden states of a window, [scoredTokens, D]. */
  statesOf(window: Window): Float32Array;
}

/** With their prompt embeddings. */
export interface PlacedSet extends WindowSet {
  embeddings: Float32Array; // [windows, P]
}

type Trunk = Pick<TrunkRunner, "hidden" | "release">;

/** The trunk is opened only for passes that no run has finished. `weightsHash` names its weights. */
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

/** One trunk pass over right-padded windows: the bits of each one's rows that predict a scored token, [scoredTokens, D]. */
async function passOf(windows: readonly Window[], trunk: Trunk): Promise<Uint16Array[]> {
  const T = Math.max(...windows.map((window) => window.tokenIds.length));
  const tokenIds = new Int32Array(windows.length * T);
  for (const [s, window] of windows.entries()) tokenIds.set(window.tokenIds, s * T);
  const hidden = await trunk.hidden(tokenIds, windows.length, T); // [S, T, D]
  const D = hidden.length / tokenIds.length;
  return windows.map((window, s) => {
    const first = (s * T + prefixTokens - 1) * D;
    const halves = new Float16Array(hidden.subarray(first, first + scoredTokens(window) * D));
    return new Uint16Array(halves.buffer);
  });
}
