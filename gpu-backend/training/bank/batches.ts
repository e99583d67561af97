/** Windows with their hidden states, gathered into the flat arrays that the graphs take. */
import { scoredTokens, targetsOf, type Window } from "../corpus/windows.ts";
import type { HiddenStates } from "../hidden-states.ts";

/** Windows of one split, and their cached hidden states. */
export interface WindowSet {
  windows: readonly Window[];
  states: HiddenStates;
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
const maximumLogits = 8_000_000;

/** Cuts a list of window indexes into runs whose logits fit; a run has at least one window. */
export function runsOf(set: WindowSet, indexes: readonly number[], vocabularySize: number): number[][] {
  const runs: number[][] = [];
  let tokens = Number.POSITIVE_INFINITY;
  for (const index of indexes) {
    const more = scoredTokens(set.windows[index]);
    if ((tokens + more) * vocabularySize > maximumLogits) {
      runs.push([]);
      tokens = 0;
    }
    runs[runs.length - 1].push(index);
    tokens += more;
  }
  return runs;
}

export async function gatherBatch(set: WindowSet, indexes: readonly number[], hiddenSize: number): Promise<Batch> {
  const tokens = indexes.reduce((sum, index) => sum + scoredTokens(set.windows[index]), 0);
  const batch: Batch = {
    hidden: new Float32Array(tokens * hiddenSize),
    targets: new Int32Array(tokens),
    windowOf: new Int32Array(tokens),
  };
  let row = 0;
  for (const [position, index] of indexes.entries()) {
    const window = set.windows[index];
    await set.states.read(set.firstState + index, batch.hidden, row * hiddenSize);
    batch.targets.set(targetsOf(window), row);
    batch.windowOf.fill(position, row, row + scoredTokens(window));
    row += scoredTokens(window);
  }
  return batch;
}
