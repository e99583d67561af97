/** Compares passes on a device with the same passes on the CPU, because some graphics adapters compute wrong values without any error. */
import { ownRank } from "../../shared/artifacts/limits.ts";
import { joinArrays } from "../../shared/bytes.ts";
import { safeRunTokens } from "../kv/device-runner.ts";
import type { Kv, Pass, PassOutput, Runner } from "../kv/runner.ts";
import type { SelfTest } from "../runtime/device.ts";
import type { Bank, ModelShape, OwnChanges } from "../runtime/step.ts";

/** In ascending order. The last row of the largest batch also runs alone. */
const batches = [4, 8, 32];
export const testRows = batches.at(-1)! + 1;
/** More than a vector register has lanes, and not a multiple of that number. */
const promptTokens = 90;
const decodedTokens = 3;
/** Batch in which all rows but two are closed, so that `trim` moves these two. */
const movingBatch = 8;

/** Outputs by the name of the test case. */
type Cases = Map<string, Float32Array>;

/**
 * `open(n)` opens a runner on the device with at most n tokens of a row in a run. `open("host")` opens a runner on the CPU. `tolerance`: one
 * of `deviceTolerances`.
 */
export async function runSelfTest(
  open: (runTokens: number | "host") => Promise<Runner>,
  longest: number,
  tolerance: number,
): Promise<SelfTest> {
  const casesOf = async (runTokens: number | "host") => {
    const runner = await open(runTokens);
    try {
      return await runCases(runner);
    } finally {
      await runner.release();
    }
  };
  const expected = await casesOf("host");
  const long = compare(await casesOf(longest), expected, tolerance);
  if (long.failures.length === 0) return { ...long, runTokens: longest, switchedOff: [] };
  const short = compare(await casesOf(safeRunTokens), expected, tolerance);
  if (short.failures.length > 0) return { ...short, runTokens: safeRunTokens, switchedOff: [] };
  const switchedOff = [`runs of more than ${safeRunTokens} tokens of a prompt (${long.failures[0]})`];
  return { ...short, runTokens: safeRunTokens, switchedOff };
}

const nameOf = (batch: number) => `copied rows in a batch of ${batch}`;
const aloneName = "a copied row alone";

async function runCases(runner: Runner): Promise<Cases> {
  const { kv, config } = runner;
  const tokenOf = (i: number) => (i * i * 31 + 7 * i) % config.vocabularySize;
  const cases: Cases = new Map();
  const decode = (rows: readonly Kv[], own?: OwnChanges) =>
    runPass(
      runner,
      "decode",
      rows.map((row) => ({ kv: row, tokens: [tokenOf(row.positions + 3)] })),
      own,
    );

  const length = Math.min(promptTokens, Math.floor((config.contextTokens - decodedTokens - 2) / 2));
  const prompt = Array.from({ length: 2 * length }, (_, i) => tokenOf(i));
  const row = kv.open(prompt.length + decodedTokens + 2);
  // The second chunk tests the kernel that reads keys and values of earlier runs.
  for (const [name, tokens] of [
    ["a prompt", prompt.slice(0, length)],
    ["a prompt's next chunk", prompt.slice(length)],
  ] as const) {
    cases.set(name, await runPass(runner, "prefill", [{ kv: row, tokens }]));
  }
  const decoded: Float32Array[] = [];
  for (let token = 0; token < decodedTokens; token++) decoded.push(await decode([row]));
  cases.set("decoding", joinArrays(Float32Array, decoded));

  kv.park(row);
  cases.set("a parked row", await decode([row]));
  cases.set(
    "states",
    joinArrays(Float32Array, await kv.states([0, length].map((position) => ({ kv: row, position })))),
  );

  /** The copy at index n lacks the last `missing[n]` positions of the first row. */
  const copies = (...missing: number[]) => {
    const rows = missing.map((less) => ({ kv: kv.open(row.positions), positions: row.positions - less }));
    kv.place(rows);
    for (const { kv: copy, positions } of rows) {
      const block = kv.copy(row, 0, positions - 1);
      kv.write(copy, block, positions - 1);
      block.free();
    }
    return rows.map(({ kv: copy }) => copy);
  };
  for (const batch of batches) {
    const rows = copies(...Array(batch).keys());
    cases.set(nameOf(batch), await decode(rows));
    const kept = rows.splice(-2);
    for (const copy of rows) kv.close(copy);
    if (batch === movingBatch) {
      kv.trim();
      cases.set("moved rows", await decode(kept));
      const change = { a: wave(config.hiddenSize * ownRank, 0.1), b: wave((ownRank + 1) * config.hiddenSize, 0.1) };
      const own = {
        rows: Int32Array.of(1),
        changes: [change],
        indexes: new Int32Array(1),
        weights: Float32Array.of(1),
      };
      cases.set("an own adapter", await decode(kept, own));
    }
    for (const copy of kept) kv.close(copy);
  }
  const [alone] = copies(batches.at(-1)! - 1);
  kv.close(row);
  // Moves the row to the first place, so that no other row runs.
  kv.trim();
  cases.set(aloneName, await decode([alone]));
  kv.close(alone);
  return cases;
}

/** Runs the head at each row's last token, with settings that depend only on the token's position. */
async function runPass(
  runner: Runner,
  phase: Pass["phase"],
  rows: Pass["rows"],
  own?: OwnChanges,
): Promise<Float32Array> {
  runner.kv.place(rows.map(({ kv, tokens }) => ({ kv, positions: kv.positions + tokens.length })));
  const states = rows.map(({ kv, tokens }) => ({ kv, position: kv.positions + tokens.length - 1 }));
  const positions = states.map(({ position }) => position);
  const gates = positions.map((position) => wave(runner.gates, 1, position));
  const output = await runner.run({
    ...{ phase, rows, states },
    head: {
      ...{ gates: joinArrays(Float32Array, gates), own },
      inverseTemperatures: Float32Array.from(positions, (position) => 1 + (position % 3) / 4),
      targetIds: Int32Array.from(positions, (position) => position % runner.config.vocabularySize),
      bias: { rows: new Int32Array(0), ids: new Int32Array(0), values: new Float32Array(0) },
      want: { scores: true, hidden: false },
    },
  });
  return joinArrays(
    Float32Array,
    rows.map((_, n) => numbersOf(output, n, runner.config)),
  );
}

function numbersOf(output: PassOutput, n: number, { vocabularySize: V }: ModelShape): Float32Array {
  const { topCount: K, topScores, topIds, logSumExp, scaledLogSumExp, targetScores } = output;
  const scores = output.scores!.subarray(n * V, (n + 1) * V);
  return joinArrays(Float32Array, [
    scores,
    topScores.subarray(n * K, (n + 1) * K),
    Float32Array.from(topIds.subarray(n * K, (n + 1) * K), (id) => scores[id]),
    Float32Array.of(logSumExp[n], scaledLogSumExp[n], targetScores[n]),
  ]);
}

function compare(
  found: Cases,
  expected: Cases,
  tolerance: number,
): Pick<SelfTest, "failures" | "difference" | "rowsAreIndependent"> {
  const differences = [...expected].map(([name, values]) => [name, differenceOf(found.get(name)!, values)] as const);
  // `difference > tolerance` would be false for NaN.
  const wrong = differences.filter(([, difference]) => !(difference <= tolerance));
  const all = found.get(nameOf(batches.at(-1)!))!;
  const isSame = (own: Float32Array, others: Float32Array) => own.every((value, i) => value === others[i]);
  const alone = found.get(aloneName)!;
  return {
    failures: wrong.map(([name, difference]) => `${name} is ${difference.toExponential(1)} from the CPU`),
    difference: Math.max(...differences.map(([, difference]) => difference)),
    rowsAreIndependent:
      batches.every((batch) => isSame(found.get(nameOf(batch))!, all)) && isSame(alone, all.subarray(-alone.length)),
  };
}

/** Returns NaN if any value is NaN. */
function differenceOf(actual: Float32Array, expected: Float32Array): number {
  const scale = expected.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  return actual.reduce((max, value, i) => Math.max(max, Math.abs(value - expected[i])), 0) / scale;
}

export function testBank({ hiddenSize }: ModelShape, gates: number): Bank {
  const matrix = () => wave(gates * hiddenSize, 1 / Math.sqrt(hiddenSize));
  return { gates, a: matrix(), a0: wave(gates, 1), b: matrix() };
}

/** Irregular values, so that sums do not cancel out. */
function wave(count: number, amplitude: number, start = 0): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: count }, (_, i) => amplitude * Math.sin(i * i * 0.37 + i + start));
}
