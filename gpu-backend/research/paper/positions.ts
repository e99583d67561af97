/** Hidden states and the tokens that they predict, in batches that share an adapter. Shapes: N positions, D hidden size, P embedding. */
import { joinArrays } from "../../../shared/bytes.ts";
import { type CentroidVectors, type EdgeTable, promptEmbedding } from "../../../shared/math/assignment.ts";
import type { Tokenizer } from "../../../shared/tokenizer/tokenizer.ts";
import type { TrunkRunner } from "../../runtime/trunk-runner.ts";
import { kMeans, unitVector } from "../../training/clustering/k-means.ts";
import { assignAll, embedWindows } from "../../training/clustering/placement.ts";
import { targetsOf, type Window, windowTokens } from "../../training/corpus/windows.ts";
import type { WindowSet } from "../../training/hidden-states.ts";
import type { Progress } from "../../training/progress.ts";

export interface Batch {
  hidden: Float32Array; // [N, D]
  targets: Int32Array; // [N]
  /** Mean of the batch's embeddings, scaled to length 1, [P]. */
  input: Float32Array;
}

const linesPerBatch = 16;
const lineClusters = 8;
const linesPerPass = 8;
const windowsPerBatch = 5;

/** Returns at most `limit` paragraphs, evenly spaced, as token ids without padding. */
export function paragraphsOf(
  windows: readonly Window[],
  tokenizer: Pick<Tokenizer, "encode" | "pieceOf">,
  limit: number,
): Int32Array[] {
  const paragraphs = windows.flatMap(({ tokenIds }) =>
    Buffer.concat(Array.from(tokenIds, (id) => tokenizer.pieceOf(id)))
      .toString()
      .split(/\n\s*\n/)
      .filter((paragraph) => paragraph.trim()),
  );
  const every = Math.max(1, paragraphs.length / limit);
  return Array.from({ length: Math.min(limit, paragraphs.length) }, (_, i) =>
    Int32Array.from(tokenizer.encode(paragraphs[Math.floor(i * every)])).subarray(0, windowTokens),
  );
}

/**
 * Paragraphs as the paper's code scores them. Each is padded to a line of 256 tokens. The hidden state of the last position predicts the
 * token at that same position, which is padding unless the paragraph fills the line. Clusters and the batches' mean embeddings come from
 * the scored text itself.
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
    const hidden = await trunk.hidden(joinArrays(Int32Array, pass), pass.length, T); // [S, T, D]
    const size = hidden.length / pass.length;
    for (let end = size; end <= hidden.length; end += size) lastStates.push(hidden.slice(end - size / T, end));
    progress.advance(from + pass.length);
  }
  const P = table.dimensions;
  const embeddings = joinArrays(
    Float32Array,
    lines.map((line) => promptEmbedding(line, table)),
  );
  const { memberOf } = kMeans(embeddings, P, { clusters: Math.min(lineClusters, lines.length), seed });
  return batchesOf(memberOf, embeddings, P, linesPerBatch).map(({ indexes, input }) => {
    const states = indexes.map((i) => lastStates[i]);
    const targets = Int32Array.from(indexes, (i) => lines[i][T - 1]);
    return { hidden: joinArrays(Float32Array, states), targets, input };
  });
}

/** All windows of a batch have prefixes that are nearest to the same centroid. */
export function windowPositions(
  { windows, statesOf }: WindowSet,
  table: EdgeTable,
  centroids: CentroidVectors,
): Batch[] {
  const embeddings = embedWindows(windows, table);
  const members = assignAll(embeddings, centroids);
  return batchesOf(members, embeddings, table.dimensions, windowsPerBatch).map(({ indexes, input }) => {
    const own = indexes.map((index) => windows[index]);
    const hidden = joinArrays(Float32Array, own.map(statesOf));
    return { hidden, targets: joinArrays(Int32Array, own.map(targetsOf)), input };
  });
}

/** A batch has at most `size` members, all of one cluster. */
function batchesOf(memberOf: Int32Array, embeddings: Float32Array, P: number, size: number) {
  const clusters = [...Map.groupBy(memberOf.keys(), (i) => memberOf[i]).entries()].sort(([j], [k]) => j - k);
  return clusters.flatMap(([, members]) =>
    Array.from({ length: Math.ceil(members.length / size) }, (_, b) => {
      const indexes = members.slice(b * size, (b + 1) * size);
      const sum = new Float32Array(P);
      for (const i of indexes) for (let p = 0; p < P; p++) sum[p] += embeddings[i * P + p];
      return { indexes, input: unitVector(sum) };
    }),
  );
}
