/**
 * Candidates of a training step: the tokens whose logits it computes where the vocabulary is large. They are the step's targets
 * and the tokens that the base thinks likeliest at its positions; what all others have together is known from a survey of the
 * base's logits, which is made once and kept on disk.
 */
import { existsSync } from "node:fs";
import { type FileHandle, open, rename } from "node:fs/promises";
import { GraphBuilder } from "../../runtime/graph.ts";
import { openSession, tensor } from "../../runtime/session.ts";
import { scoredTokens } from "../corpus/windows.ts";
import type { Progress } from "../progress.ts";
import { gatherBatch, runsOf, type WindowSet, wholeWindow } from "./batches.ts";
import type { HeadWeights } from "./training-graph.ts";

/** Of a smaller vocabulary every token is computed. */
export const largeVocabulary = 16_384;
/** C: candidates of a step; targets beyond them are candidates as well. */
export const candidatesPerStep = 6144;
/** Likeliest tokens that are kept of each position. */
const keptTokens = 16;
/** log Σ exp as a float, then the token ids, as 32-bit numbers. */
const numbersPerRow = 1 + keptTokens;

/** What the base says at the scored positions of windows. */
export interface SurveyedWindow {
  /** log Σ exp of the base's logits, [scoredTokens]. */
  logSums: Float32Array;
  /** The likeliest tokens of each position, the first first, [scoredTokens][keptTokens]. */
  best: Int32Array[];
}

export class Survey {
  readonly #file: FileHandle;
  readonly #set: WindowSet;
  readonly #offsets: Float64Array; // in rows

  private constructor(file: FileHandle, set: WindowSet) {
    this.#file = file;
    this.#set = set;
    this.#offsets = new Float64Array(set.windows.length + 1);
    for (const [i, window] of set.windows.entries()) this.#offsets[i + 1] = this.#offsets[i] + scoredTokens(window);
  }

  /** Opens the survey at `path`, made of the windows' hidden states where it is missing; an interrupted one is made anew. */
  static async open(
    path: string,
    set: WindowSet,
    head: HeadWeights,
    threads: number,
    progress: Progress,
    signal?: AbortSignal,
  ): Promise<Survey> {
    if (!existsSync(path)) await survey(path, set, head, threads, progress, signal);
    return new Survey(await open(path, "r"), set);
  }

  async read(index: number): Promise<SurveyedWindow> {
    const rows = scoredTokens(this.#set.windows[index]);
    const bytes = new Uint8Array(rows * numbersPerRow * 4);
    await this.#file.read(bytes, 0, bytes.length, this.#offsets[index] * numbersPerRow * 4);
    const [floats, ids] = [new Float32Array(bytes.buffer), new Int32Array(bytes.buffer)];
    return {
      logSums: Float32Array.from({ length: rows }, (_, row) => floats[row * numbersPerRow]),
      best: Array.from({ length: rows }, (_, row) => ids.subarray(row * numbersPerRow + 1, (row + 1) * numbersPerRow)),
    };
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

async function survey(
  path: string,
  set: WindowSet,
  head: HeadWeights,
  threads: number,
  progress: Progress,
  signal?: AbortSignal,
): Promise<void> {
  const { hiddenSize: D, vocabularySize: V } = head;
  const session = await openSession(buildSurveyGraph(head), { threads });
  const partial = `${path}.partial`;
  const file = await open(partial, "w");
  progress.stage("survey", set.windows.length);
  let done = 0;
  try {
    const parts = set.windows.map((_, index) => wholeWindow(set, index));
    for (const run of runsOf(parts, ({ tokens }) => tokens.length, V)) {
      signal?.throwIfAborted();
      const { hidden, targets } = await gatherBatch(set, run, D);
      const results = await session.run({ hidden: tensor(hidden, [targets.length, D]) });
      const [logSums, best] = [results.log_sums.data as Float32Array, results.best.data as BigInt64Array];
      const floats = new Float32Array(targets.length * numbersPerRow);
      const ids = new Int32Array(floats.buffer);
      for (let row = 0; row < targets.length; row++) {
        floats[row * numbersPerRow] = logSums[row];
        for (let m = 0; m < keptTokens; m++) ids[row * numbersPerRow + 1 + m] = Number(best[row * keptTokens + m]);
      }
      await file.write(ids);
      done += run.length;
      progress.advance(done);
    }
  } finally {
    await file.close();
    await session.release();
  }
  await rename(partial, path);
}

/** hidden [N, D] → log_sums [N] and best [N, keptTokens]. */
function buildSurveyGraph({ hiddenSize: D, vocabularySize: V, tokenEmbedding }: HeadWeights): Uint8Array {
  const g = new GraphBuilder("survey");
  const hidden = g.input("hidden", "float32", ["N", D]);
  const logits = g.node("Gemm", [hidden, g.constant(tokenEmbedding, [V, D])], { transB: 1 });
  const [values, ids] = g.nodes("TopK", [logits, g.integers(keptTokens)], 2, { axis: 1 });
  const first = g.node("Slice", [values, g.integers(0), g.integers(1), g.integers(1)]); // [N, 1]
  // log Σ exp = logit − logprob, of any token.
  const highest = g.node("ReduceMax", [g.node("LogSoftmax", [logits], { axis: 1 }), g.integers(1)], { keepdims: 1 });
  g.output("log_sums", g.node("Squeeze", [g.node("Sub", [first, highest]), g.integers(1)]), "float32", ["N"]);
  g.output("best", ids, "int64", ["N", keptTokens]);
  return g.bytes();
}

/**
 * Candidates of a step, rising: all targets, and of each position its likeliest tokens, the first of all positions before the
 * second of any.
 * @param best of each position, the first first
 */
export function candidatesOf(
  targets: Int32Array,
  best: readonly Int32Array[],
  atMost: number = candidatesPerStep,
): Int32Array {
  const chosen = new Set(targets);
  const ranks = best.length > 0 ? best[0].length : 0;
  for (let rank = 0; rank < ranks; rank++) {
    for (const ids of best) if (chosen.size < atMost) chosen.add(ids[rank]);
  }
  return Int32Array.from(chosen).sort();
}

/** Where each target stands among the candidates, [N]. */
export function positionsAmong(candidates: Int32Array, targets: Int32Array): Int32Array {
  const places = new Map([...candidates].map((id, place) => [id, place]));
  return targets.map((id) => places.get(id)!);
}
