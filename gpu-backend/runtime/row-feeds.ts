/** What plain and mixed rows have in common: what the sampler asks of a row of scores, and what it reads. */
import type { RowNames } from "./graph-names.ts";
import { type SessionResults, type Tensor, tensor } from "./session.ts";
import { type LogitChanges, logitOf, type RowOutput, type SparseBias } from "./step.ts";

const yes = tensor(Uint8Array.of(1), [], "bool");
const no = tensor(Uint8Array.of(0), [], "bool");
/** GatherND wants an entry: one that changes nothing. */
export const zeroBias: SparseBias = { rows: Int32Array.of(0), ids: Int32Array.of(0), values: Float32Array.of(0) };

export const bool = (value: boolean): Tensor => (value ? yes : no);

/** The output of no rows. */
export function noRows(wantsScores: boolean): RowOutput {
  const none = new Float32Array(0);
  return {
    topCount: 0,
    areLikelihoods: false,
    topScores: none,
    topIds: new Int32Array(0),
    logSumExp: none,
    scaledLogSumExp: none,
    targetScores: none,
    scores: wantsScores ? none : null,
  };
}

interface Asked {
  wanted: boolean;
  inverseTemperatures: Float32Array; // [N]
  bias: LogitChanges;
}

export function rowFeeds(names: RowNames, { wanted, inverseTemperatures, bias }: Asked): Record<string, Tensor> {
  const { rows, ids, values, penalties }: LogitChanges = bias.values.length > 0 ? bias : zeroBias;
  const places = interleaved(rows, ids);
  return {
    [names.wanted]: bool(wanted),
    [names.scaled]: bool(isScaled(inverseTemperatures)),
    [names.inverseTemperatures]: tensor(inverseTemperatures, [inverseTemperatures.length]),
    [names.biasIndices]: tensor(places, [values.length, 2]),
    [names.biasPenalties]: tensor(penalties ?? new Float32Array(values.length).fill(1), [values.length]),
    [names.biasValues]: tensor(values, [values.length]),
  };
}

export function rowFetches(names: RowNames, inverseTemperatures: Float32Array, wantsScores: boolean): string[] {
  return [
    ...[names.topScores, names.topIds, names.topProbability, names.targetScores],
    ...(isScaled(inverseTemperatures) ? [names.scaledTopProbability] : []),
    ...(wantsScores ? [names.scores] : []),
  ];
}

/** The results of the first `count` rows. */
export function readRows(
  results: SessionResults,
  names: RowNames,
  count: number,
  asked: { areLikelihoods: boolean; inverseTemperatures: Float32Array; wantsScores: boolean },
): RowOutput {
  const { areLikelihoods, inverseTemperatures, wantsScores } = asked;
  const [rows, topCount] = results[names.topIds].dims;
  const of = <T extends Float32Array | Int32Array>(name: string) => {
    const data = results[name].data as T;
    return data.subarray(0, (data.length / rows) * count) as T;
  };
  const topScores = of<Float32Array>(names.topScores);
  // log Σ exp, by way of the likeliest token: the graph's softmax is many times faster than its ReduceLogSumExp.
  const logSum = (name: string, n: number, inverse: number) =>
    logitOf(topScores[n * topCount], areLikelihoods) * inverse - Math.log((results[name].data as Float32Array)[n]);
  const logSumExp = Float32Array.from({ length: count }, (_, n) => logSum(names.topProbability, n, 1));
  return {
    ...{ areLikelihoods, topCount, topScores, logSumExp },
    topIds: of<Int32Array>(names.topIds),
    scaledLogSumExp: logSumExp.map((plain, n) => {
      const inverse = inverseTemperatures[n];
      return inverse === 1 ? plain : logSum(names.scaledTopProbability, n, inverse);
    }),
    targetScores: of<Float32Array>(names.targetScores),
    scores: wantsScores ? of<Float32Array>(names.scores) : null,
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

function isScaled(inverseTemperatures: Float32Array): boolean {
  return inverseTemperatures.some((inverse) => inverse !== 1);
}
