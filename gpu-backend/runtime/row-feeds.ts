import { ownRank } from "../../shared/artifacts/limits.ts";
import { joinArrays } from "../../shared/bytes.ts";
import { names } from "./graph-names.ts";
import { type SessionResults, type Tensor, tensor } from "./session.ts";
import type { LogitChanges, OwnChanges, RowOutput, StepInput } from "./step.ts";

const yes = tensor(Uint8Array.of(1), [], "bool");
const no = tensor(Uint8Array.of(0), [], "bool");
/** An entry without effect, fed if no logit is changed, because GatherND needs at least one entry. */
const zeroBias: LogitChanges = { rows: Int32Array.of(0), ids: Int32Array.of(0), values: Float32Array.of(0) };

const none = new Int32Array(0);
const noChanges: OwnChanges = { rows: none, changes: [], indexes: none, weights: new Float32Array(0) };

export const bool = (value: boolean): Tensor => (value ? yes : no);

export function ownFeeds(own: OwnChanges | undefined, D: number): Record<string, Tensor> {
  const { rows, changes, indexes, weights } = own ?? noChanges;
  const [X, E, R] = [rows.length, changes.length, ownRank];
  const K = X > 0 ? indexes.length / X : 1;
  const all = { a: changes.map(({ a }) => a), b: changes.map(({ b }) => b) };
  return {
    [names.hasOwn]: bool(X > 0),
    [names.ownRows]: tensor(rows, [X, 1]),
    [names.ownIndexes]: tensor(indexes, [X, K]),
    [names.ownWeights]: tensor(weights, [X, K, 1, 1]),
    [names.ownA]: tensor(joinArrays(Float32Array, all.a), [E, D, R]),
    [names.ownB]: tensor(joinArrays(Float32Array, all.b), [E, R + 1, D]),
  };
}

/** A row whose results are not read, because the graphs require a row. */
export function oneRow(gates: number) {
  const [rows, targetIds] = [Int32Array.of(0), Int32Array.of(0)];
  return { rows, targetIds, gates: new Float32Array(gates), inverseTemperatures: Float32Array.of(1) };
}

export function noRows(wantsScores: boolean): RowOutput {
  const none = new Float32Array(0);
  return {
    topCount: 0,
    topScores: none,
    topIds: new Int32Array(0),
    logSumExp: none,
    scaledLogSumExp: none,
    targetScores: none,
    scores: wantsScores ? none : null,
  };
}

type HeadRows = Pick<StepInput, "inverseTemperatures" | "bias" | "want">;

export function rowFeeds({ inverseTemperatures, bias, want }: HeadRows, wanted: boolean): Record<string, Tensor> {
  return {
    [names.wanted]: bool(wanted),
    [names.ranked]: bool(!want.only),
    [names.summed]: bool(want.only === "sums"),
    [names.scaled]: bool(isScaled(inverseTemperatures)),
    [names.inverseTemperatures]: tensor(inverseTemperatures, [inverseTemperatures.length]),
    ...biasFeeds(bias, (pairs) => pairs),
  };
}

/** `typed` converts the (row, id) pairs, [A, 2], to the graph's type. */
export function biasFeeds(
  bias: LogitChanges,
  typed: (pairs: Int32Array<ArrayBuffer>) => Int32Array | BigInt64Array,
): Record<string, Tensor> {
  const { rows, ids, values, penalties } = bias.values.length > 0 ? bias : zeroBias;
  const A = values.length;
  const pairs = new Int32Array(2 * A);
  for (let i = 0; i < A; i++) pairs.set([rows[i], ids[i]], 2 * i);
  return {
    [names.biasIndices]: tensor(typed(pairs), [A, 2]),
    [names.biasPenalties]: tensor(penalties ?? new Float32Array(A).fill(1), [A]),
    [names.biasValues]: tensor(values, [A]),
  };
}

export function rowFetches({ inverseTemperatures, want }: HeadRows): string[] {
  return [
    ...[names.topScores, names.topIds, names.topProbability, names.targetScores],
    ...(isScaled(inverseTemperatures) ? [names.scaledTopProbability] : []),
    ...(want.scores ? [names.scores] : []),
  ];
}

export function readRows(results: SessionResults, count: number, { inverseTemperatures, want }: HeadRows): RowOutput {
  const [rows, topCount] = results[names.topIds].dims;
  const of = <T extends Float32Array | Int32Array | BigInt64Array>(name: string) => {
    const data = results[name].data as T;
    return data.subarray(0, (data.length / rows) * count) as T;
  };
  const topScores = of<Float32Array>(names.topScores);
  // log Σ exp(x) is the greatest x minus the log of its probability. The graph's softmax is many times faster than ReduceLogSumExp.
  const logSum = (name: string, n: number, inverse: number) =>
    topScores[n * topCount] * inverse - Math.log((results[name].data as Float32Array)[n]);
  const topIds = of<Int32Array | BigInt64Array>(names.topIds);
  const logSumExp = Float32Array.from({ length: count }, (_, n) => logSum(names.topProbability, n, 1));
  return {
    ...{ topCount, topScores, logSumExp },
    topIds: topIds instanceof Int32Array ? topIds : Int32Array.from(topIds, Number),
    scaledLogSumExp: logSumExp.map((plain, n) => {
      const inverse = inverseTemperatures[n];
      return inverse === 1 ? plain : logSum(names.scaledTopProbability, n, inverse);
    }),
    targetScores: of<Float32Array>(names.targetScores),
    scores: want.scores ? of<Float32Array>(names.scores) : null,
  };
}

function isScaled(inverseTemperatures: Float32Array): boolean {
  return inverseTemperatures.some((inverse) => inverse !== 1);
}
