/**
 * Text as the paper's code takes it (arXiv 2502.04315): paragraphs padded to 256 tokens, each scored at its last position
 * alone, and against the token AT that position. Where a paragraph is shorter, that token is the padding.
 * Clusters and batch means come from the scored text itself, padding included, as they do there.
 */
import { type EdgeTable, promptEmbedding } from "../../../shared/math/assignment.ts";
import type { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";
import type { TrunkRunner } from "../../runtime/trunk-runner.ts";
import { meanDirection } from "../bank/trainer.ts";
import { kMeans } from "../clustering/k-means.ts";
import { type Window, windowTokens } from "../corpus/windows.ts";
import type { Progress } from "../progress.ts";

/** Paragraphs, ready to be scored. */
export interface Lines {
  /** Of the last position, [n, D]. */
  hidden: Float32Array;
  /** Token at the last position, [n]. */
  targets: Int32Array;
  batches: LineBatch[];
}

/** Lines of one cluster, and the mean of their embeddings [P]. */
export interface LineBatch {
  indexes: number[];
  input: Float32Array;
}

const linesPerBatch = 16;
const clusters = 8;
const linesPerPass = 8;

/** At most `limit` paragraphs of the windows, evenly chosen: token ids up to `windowTokens`, not yet padded. */
export function paragraphsOf(windows: readonly Window[], tokenizer: Tokenizer, limit: number): Int32Array[] {
  const paragraphs = windows.flatMap(({ tokenIds }) => cutAtBlankLines(tokenIds, tokenizer));
  const every = Math.max(1, paragraphs.length / limit);
  return Array.from({ length: Math.min(limit, paragraphs.length) }, (_, i) => paragraphs[Math.floor(i * every)]);
}

export async function prepareLines(
  paragraphs: readonly Int32Array[],
  padId: number,
  table: EdgeTable,
  trunk: TrunkRunner,
  seed: number,
  progress: Progress,
): Promise<Lines> {
  const T = windowTokens;
  const padded = paragraphs.map((ids) => {
    const line = new Int32Array(T).fill(padId);
    line.set(ids);
    return line;
  });
  progress.stage("lines", padded.length);
  const rows: Float32Array[] = [];
  for (let from = 0; from < padded.length; from += linesPerPass) {
    const pass = padded.slice(from, from + linesPerPass);
    const tokenIds = new Int32Array(pass.length * T);
    for (const [s, line] of pass.entries()) tokenIds.set(line, s * T);
    const hidden = await trunk.hidden(tokenIds, pass.length, T); // [S, T, D]
    const D = hidden.length / tokenIds.length;
    for (let s = 0; s < pass.length; s++) rows.push(hidden.slice(((s + 1) * T - 1) * D, (s + 1) * T * D));
    progress.advance(from + pass.length);
  }
  const D = rows[0].length;
  const hidden = new Float32Array(rows.length * D);
  for (const [i, row] of rows.entries()) hidden.set(row, i * D);
  const targets = Int32Array.from(padded, (line) => line[T - 1]);
  return { hidden, targets, batches: batchesOf(padded, table, seed) };
}

/** Hidden states and targets of some lines. */
export function gatherLines({ hidden, targets }: Lines, indexes: readonly number[]) {
  const D = hidden.length / targets.length;
  const chosen = new Float32Array(indexes.length * D);
  for (const [n, i] of indexes.entries()) chosen.set(hidden.subarray(i * D, (i + 1) * D), n * D);
  return { hidden: chosen, targets: Int32Array.from(indexes, (i) => targets[i]) };
}

function batchesOf(padded: readonly Int32Array[], table: EdgeTable, seed: number): LineBatch[] {
  const P = table.dimensions;
  const embeddings = new Float32Array(padded.length * P);
  for (const [i, line] of padded.entries()) embeddings.set(promptEmbedding(line, table), i * P);
  const { memberOf } = kMeans(embeddings, P, { clusters: Math.min(clusters, padded.length), seed });
  const members = [...Map.groupBy(memberOf.keys(), (i) => memberOf[i]).entries()].sort(([j], [k]) => j - k);
  return members.flatMap(([, indexes]) =>
    Array.from({ length: Math.ceil(indexes.length / linesPerBatch) }, (_, b) => {
      const batch = indexes.slice(b * linesPerBatch, (b + 1) * linesPerBatch);
      return { indexes: batch, input: meanDirection(batch.map((i) => embeddings.subarray(i * P, (i + 1) * P))) };
    }),
  );
}

function cutAtBlankLines(tokenIds: Int32Array, tokenizer: Tokenizer): Int32Array[] {
  const paragraphs: Int32Array[] = [];
  let start = 0;
  let newlines = 0; // that the text so far ends in
  for (const [at, id] of tokenIds.entries()) {
    const piece = new TextDecoder().decode(tokenizer.pieceOf(id));
    newlines = piece.trim() === "" ? newlines + piece.split("\n").length - 1 : 0;
    if (newlines < 2) continue;
    if (at > start) paragraphs.push(tokenIds.subarray(start, at));
    start = at + 1;
    newlines = 0;
  }
  if (start < tokenIds.length) paragraphs.push(tokenIds.subarray(start));
  return paragraphs;
}
