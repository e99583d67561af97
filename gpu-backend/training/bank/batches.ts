/** Windows with their hidden states, gathered into the flat arrays that the graphs take. */
import { scoredTokens, targetsOf, type Window } from "../corpus/windows.ts";
import type { HiddenStates } from "../hidden-states.ts";

/** Windows of one split, and their cached hidden states. */
export interface WindowSet {
  windows: readonly Window[];
  states: Pick<HiddenStates, "read">;
  /** Position of windows[0] in `states`. */
  firstState: number;
}

/** With their prompt embeddings. */
export interface PlacedSet extends WindowSet {
  embeddings: Float32Array; // [windows, P]
}

export interface Batch {
  hidden: Float32Array; // [N, D]
  targets: Int32Array; // [N]
  /** Which of the batch's windows each token belongs to, [N]. */
  windowOf: Int32Array;
}

/** Logits of one run, in numbers: keeps a run's memory near 32 MB whatever the vocabulary. */
export const maxLogits = 8_000_000;

/** Cuts a list of windows into runs whose logits fit; a run has at least one window. */
export function runsOf<T>(windows: readonly T[], tokensOf: (window: T) => number, vocabularySize: number): T[][] {
  const runs: T[][] = [];
  let tokens = Number.POSITIVE_INFINITY;
  for (const window of windows) {
    const more = tokensOf(window);
    if ((tokens + more) * vocabularySize > maxLogits) {
      runs.push([]);
      tokens = 0;
    }
    runs[runs.length - 1].push(window);
    tokens += more;
  }
  return runs;
}

/** A window of a set, and which of its scored tokens are wanted, rising. */
export interface WindowPart {
  index: number;
  tokens: Int32Array;
}

export function wholeWindow({ windows }: WindowSet, index: number): WindowPart {
  return { index, tokens: Int32Array.from({ length: scoredTokens(windows[index]) }, (_, token) => token) };
}

export async function gatherBatch(set: WindowSet, parts: readonly WindowPart[], hiddenSize: number): Promise<Batch> {
  const D = hiddenSize;
  const N = parts.reduce((sum, { tokens }) => sum + tokens.length, 0);
  const batch: Batch = {
    hidden: new Float32Array(N * D),
    targets: new Int32Array(N),
    windowOf: new Int32Array(N),
  };
  let row = 0;
  for (const [position, { index, tokens }] of parts.entries()) {
    const window = set.windows[index];
    const hidden = new Float32Array(scoredTokens(window) * D);
    await set.states.read(set.firstState + index, hidden, 0);
    const targets = targetsOf(window);
    for (const token of tokens) {
      batch.hidden.set(hidden.subarray(token * D, (token + 1) * D), row * D);
      batch.targets[row] = targets[token];
      batch.windowOf[row] = position;
      row++;
    }
  }
  return batch;
}
