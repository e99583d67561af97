/** What plain and mixed rows have in common: what the sampler asks of a row of logits, and what it reads. */
import type { RowNames } from "./graph-names.ts";
import { type SessionResults, type Tensor, tensor } from "./session.ts";
import type { RowOutput, SparseBias } from "./step.ts";

const yes = tensor(Uint8Array.of(1), [], "bool");
const no = tensor(Uint8Array.of(0), [], "bool");
/** ScatterND wants an entry: this one adds nothing. */
const zeroBias: SparseBias = { rows: Int32Array.of(0), ids: Int32Array.of(0), values: Float32Array.of(0) };

export const bool = (value: boolean): Tensor => (value ? yes : no);

/** The output of no rows. */
export function noRows(wantsLogits: boolean): RowOutput {
  const none = new Float32Array(0);
  return {
    topCount: 0,
    topLogits: none,
    topIds: new Int32Array(0),
    logSumExp: none,
    scaledLogSumExp: none,
    targetLogits: none,
    logits: wantsLogits ? none : null,
  };
}

interface Asked {
  wanted: boolean;
  inverseTemperatures: Float32Array; // [N]
  bias: SparseBias;
}

export function rowFeeds(names: RowNames, { wanted, inverseTemperatures, bias }: Asked): Record<string, Tensor> {
  const { rows, ids, values } = bias.values.length > 0 ? bias : zeroBias;
  const places = interleaved(rows, ids);
  return {
    [names.wanted]: bool(wanted),
    [names.scaled]: bool(isScaled(inverseTemperatures)),
    [names.inverseTemperatures]: tensor(inverseTemperatures, [inverseTemperatures.length]),
    [names.biasIndices]: tensor(places, [values.length, 2]),
    [names.biasValues]: tensor(values, [values.length]),
  };
}

export function rowFetches(names: RowNames, inverseTemperatures: Float32Array, wantsLogits: boolean): string[] {
  return [
    ...[names.topLogits, names.topIds, names.topProbability, names.targetLogits],
    ...(isScaled(inverseTemperatures) ? [names.scaledTopProbability] : []),
    ...(wantsLogits ? [names.logits] : []),
  ];
}

/** The results of the first `count` rows. */
export function readRows(
  results: SessionResults,
  names: RowNames,
  count: number,
  { inverseTemperatures, want }: { inverseTemperatures: Float32Array; want: { logits: boolean } },
): RowOutput {
  const [rows, topCount] = results[names.topIds].dims;
  const of = <T extends Float32Array | Int32Array>(name: string) => {
    const data = results[name].data as T;
    return data.subarray(0, (data.length / rows) * count) as T;
  };
  const topLogits = of<Float32Array>(names.topLogits);
  // log Σ exp, by way of the likeliest token: the graph's softmax is many times faster than its ReduceLogSumExp, and
  // its Log would round one row in another way than many.
  const logSumExp = (name: string, inverse: Float32Array | null) =>
    of<Float32Array>(name).map((p, n) => topLogits[n * topCount] * (inverse?.[n] ?? 1) - Math.log(p));
  const plain = logSumExp(names.topProbability, null);
  return {
    topCount,
    topLogits,
    topIds: of<Int32Array>(names.topIds),
    logSumExp: plain,
    scaledLogSumExp: isScaled(inverseTemperatures) ? logSumExp(names.scaledTopProbability, inverseTemperatures) : plain,
    targetLogits: of<Float32Array>(names.targetLogits),
    logits: want.logits ? of<Float32Array>(names.logits) : null,
  };
}

/** Columns of indices side by side, [N, columns]. */
export function interleaved(...columns: Int32Array[]): Int32Array {
  const flat = new Int32Array(columns.length * columns[0].length);
  columns.forEach((column, c) => {
    for (let i = 0; i < column.length; i++) flat[i * columns.length + c] = column[i];
  });
  return flat;
}

/** An array after itself. */
export function twice<T extends Float32Array | Int32Array>(row: T): T {
  const both = new (row.constructor as new (length: number) => T)(2 * row.length);
  both.set(row);
  both.set(row, row.length);
  return both;
}

function isScaled(inverseTemperatures: Float32Array): boolean {
  return inverseTemperatures.some((inverse) => inverse !== 1);
}
