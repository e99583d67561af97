/**
 * Positions at which a token is predicted, in batches that share one adapter: the paper's padded lines, and windows of ordinary text.
 * Shapes: N positions, D hidden size, P dimensions of an embedding.
 */
import { joinArrays } from "../../../shared/bytes.ts";
import { type CentroidVectors, type EdgeTable, promptEmbedding } from "../../../shared/math/assignment.ts";
import type { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";
import type { TrunkRunner } from "../../runtime/trunk-runner.ts";
import { kMeans } from "../../training/clustering/k-means.ts";
import { assignAll, embedWindows } from "../../training/clustering/placement.ts";
import { targetsOf, type Window, windowTokens } from "../../training/corpus/windows.ts";
import type { WindowSet } from "../../training/hidden-states.ts";
import type { Progress } from "../../training/progress.ts";

export interface Batch {
  hidden: Float32Array; // [N, D]
  targets: Int32Array; // [N]
  /** Normalised mean of the batch's embeddings, [P]. */
  input: Float32Array;
}

const linesPerBatch = 16;
const lineClusters = 8;
const linesPerPass = 8;
/** Windows that share one adapter of the paper's network. */
const windowsPerBatch = 5;

/** At most `limit` paragraphs of the windows, evenly spaced: token ids, not yet padded. */
export function paragraphsOf(
  windows: readonly Window[],
  tokenizer: Pick<Tokenizer, "pieceOf">,
  limit: number,
): Int32Array[] {
  const paragraphs = windows.flatMap(({ tokenIds }) => cutAtBlankLines(tokenIds, tokenizer));
  const every = Math.max(1, paragraphs.length / limit);
  return Array.from({ length: Math.min(limit, paragraphs.length) }, (_, i) => paragraphs[Math.floor(i * every)]);
}

/**
 * Paragraphs as the paper's code scores them: padded to 256 tokens, the hidden state of the last position against the token at
 * that position, which is the padding where a paragraph is shorter. Clusters and batch means come from the scored text itself.
 */
export async function linePositions(
  paragraphs: readonly Int32Array[],
  padId: number,
  table: EdgeTable,
  trunk: TrunkRunner,
  seed: number,
  progress: Progress,
): Promise<Batch[]> {
  const T = windowTokens;
  const lines = paragraphs.map((ids) => {
    const line = new Int32Array(T).fill(padId);
    line.set(ids);
    return line;
  });
  progress.stage("lines", lines.length);
  const lastStates: Float32Array[] = [];
  for (let from = 0; from < lines.length; from += linesPerPass) {
    const pass = lines.slice(from, from + linesPerPass);
    const tokenIds = new Int32Array(pass.length * T);
    for (const [s, line] of pass.entries()) tokenIds.set(line, s * T);
    const hidden = await trunk.hidden(tokenIds, pass.length, T); // [S, T, D]
    const D = hidden.length / tokenIds.length;
    for (let s = 0; s < pass.length; s++) lastStates.push(hidden.slice(((s + 1) * T - 1) * D, (s + 1) * T * D));
    progress.advance(from + pass.length);
  }
  const P = table.dimensions;
  const embeddings = new Float32Array(lines.length * P);
  for (const [i, line] of lines.entries()) embeddings.set(promptEmbedding(line, table), i * P);
  const { memberOf } = kMeans(embeddings, P, { clusters: Math.min(lineClusters, lines.length), seed });
  return batchesOf(memberOf, embeddings, P, linesPerBatch).map(({ indexes, input }) => ({
    hidden: joinArrays(
      Float32Array,
      indexes.map((i) => lastStates[i]),
    ),
    targets: Int32Array.from(indexes, (i) => lines[i][T - 1]),
    input,
  }));
}

/** Every token after the windows' prefixes. A window's centroid follows from its prefix; windows of one centroid share batches. */
export function windowPositions(
  { windows, statesOf }: WindowSet,
  table: EdgeTable,
  centroids: CentroidVectors,
): Batch[] {
  const embeddings = embedWindows(windows, table);
  const batches: Batch[] = [];
  const members = assignAll(embeddings, centroids);
  for (const { indexes, input } of batchesOf(members, embeddings, table.dimensions, windowsPerBatch)) {
    const own = indexes.map((index) => windows[index]);
    const hidden = joinArrays(Float32Array, own.map(statesOf));
    batches.push({ hidden, targets: joinArrays(Int32Array, own.map(targetsOf)), input });
  }
  return batches;
}

/** Cuts each cluster into batches of at most `size` members. */
function batchesOf(memberOf: Int32Array, embeddings: Float32Array, P: number, size: number) {
  const clusters = [...Map.groupBy(memberOf.keys(), (i) => memberOf[i]).entries()].sort(([j], [k]) => j - k);
  return clusters.flatMap(([, members]) =>
    Array.from({ length: Math.ceil(members.length / size) }, (_, b) => {
      const indexes = members.slice(b * size, (b + 1) * size);
      return { indexes, input: meanDirection(indexes.map((i) => embeddings.subarray(i * P, (i + 1) * P))) };
    }),
  );
}

function meanDirection(vectors: readonly Float32Array[]): Float32Array {
  const sum = new Float32Array(vectors[0].length);
  for (const vector of vectors) for (let p = 0; p < sum.length; p++) sum[p] += vector[p];
  const length = Math.hypot(...sum);
  return length > 0 ? sum.map((x) => x / length) : sum;
}

function cutAtBlankLines(tokenIds: Int32Array, tokenizer: Pick<Tokenizer, "pieceOf">): Int32Array[] {
  const paragraphs: Int32Array[] = [];
  let start = 0;
  let newlines = 0; // at the end of the text so far
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
