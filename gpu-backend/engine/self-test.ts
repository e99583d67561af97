/**
 * The self-test of a device: runs passes like serving's on the device and on the CPU. Some graphics adapters compute wrong values without
 * any error, for example in attention over 32 or more tokens if a subgroup has 8 lanes. runtime/device.ts decides what follows.
 */
import { joinArrays } from "../../shared/bytes.ts";
import { safeRunTokens } from "../kv/device-runner.ts";
import type { Kv, Pass, Runner } from "../kv/runner.ts";
import type { SelfTest } from "../runtime/device.ts";
import type { Bank, ModelShape } from "../runtime/step.ts";

/** Largest allowed difference from the CPU's logits, relative to the largest logit. Sums in another order differ by a tenth of this. */
export const tolerance = 1e-4;
/** Batch sizes at which the same rows are compared. The last is the largest. */
const batches = [1, 4, 8, 32];
/** Maximum rows that the test keeps open at the same time. */
export const testRows = batches.at(-1)! + 1;
/** More tokens than a vector register has lanes, and no multiple of the number of lanes. */
const promptTokens = 90;
const decodedTokens = 3;

/** Logits by the name of a test case. */
type Cases = Map<string, Float32Array>;

/**
 * `open("host")` opens the host's runner. `open(n)` opens a device's runner, whose runs have at most n tokens of a row. First n is
 * `longest`; if a case is then wrong, `safeRunTokens`.
 */
export async function runSelfTest(
  open: (runTokens: number | "host") => Promise<Runner>,
  longest: number,
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
  const long = compare(await casesOf(longest), expected);
  if (long.failures.length === 0) return { ...long, runTokens: longest, switchedOff: [] };
  const short = compare(await casesOf(safeRunTokens), expected);
  if (short.failures.length > 0) return { ...short, runTokens: safeRunTokens, switchedOff: [] };
  const switchedOff = [`runs of more than ${safeRunTokens} tokens of a prompt (${long.failures[0]})`];
  return { ...short, runTokens: safeRunTokens, switchedOff };
}

const nameOf = (batch: number) => `copied rows in a batch of ${batch}`;

async function runCases(runner: Runner): Promise<Cases> {
  const { kv, config } = runner;
  const tokenOf = (i: number) => (i * i * 31 + 7 * i) % config.vocabularySize;
  const cases: Cases = new Map();
  const decode = (rows: readonly Kv[]) =>
    runPass(
      runner,
      "decode",
      rows.map((row, i) => ({ kv: row, tokens: [tokenOf(row.positions + 3 * i)] })),
    );

  const prompt = Array.from({ length: Math.min(promptTokens, config.contextTokens - decodedTokens - 1) }, (_, i) =>
    tokenOf(i),
  );
  const row = kv.open(prompt.length + decodedTokens + 1);
  cases.set("a prompt", await runPass(runner, "prefill", [{ kv: row, tokens: prompt }]));
  const decoded: Float32Array[] = [];
  for (let token = 0; token < decodedTokens; token++) decoded.push(await decode([row]));
  cases.set("decoding", joinArrays(Float32Array, decoded));

  /** Opens rows with copies of the first row's positions. Each row has one position less than the row before it. */
  const copies = async (count: number) => {
    const rows = Array.from({ length: count }, (_, i) => ({
      kv: kv.open(row.positions),
      positions: row.positions - i,
    }));
    kv.place(rows);
    for (const { kv: copy, positions } of rows) {
      const block = kv.copy(row, 0, positions - 1);
      kv.write(copy, block, positions - 1);
      block.free();
    }
    return rows.map(({ kv: copy }) => copy);
  };
  for (const batch of batches) {
    const rows = await copies(batch);
    cases.set(nameOf(batch), await decode(rows));
    for (const copy of rows) kv.close(copy);
  }
  kv.park(row);
  cases.set("a parked row", await decode([row]));
  kv.close(row);
  return cases;
}

/** Runs a pass with the head at each row's last token. Returns all logits. */
async function runPass(runner: Runner, phase: Pass["phase"], rows: Pass["rows"]): Promise<Float32Array<ArrayBuffer>> {
  const N = rows.length;
  runner.kv.place(rows.map(({ kv, tokens }) => ({ kv, positions: kv.positions + tokens.length })));
  const { scores } = await runner.run({
    ...{ phase, rows },
    states: rows.map(({ kv, tokens }) => ({ kv, position: kv.positions + tokens.length - 1 })),
    head: {
      gates: wave(N * runner.gates, 1),
      ...{ inverseTemperatures: new Float32Array(N).fill(1), targetIds: new Int32Array(N) },
      bias: { rows: new Int32Array(0), ids: new Int32Array(0), values: new Float32Array(0) },
      want: { scores: true, hidden: false },
    },
  });
  return scores as Float32Array<ArrayBuffer>;
}

function compare(found: Cases, expected: Cases): Pick<SelfTest, "failures" | "difference" | "rowsAreIndependent"> {
  const differences = [...expected].map(([name, values]) => [name, differenceOf(found.get(name)!, values)] as const);
  // `difference > tolerance` would be false for NaN.
  const wrong = differences.filter(([, difference]) => !(difference <= tolerance));
  const all = found.get(nameOf(batches.at(-1)!))!;
  const isSame = (batch: number) => {
    const own = found.get(nameOf(batch))!;
    return own.every((value, i) => value === all[i]);
  };
  return {
    failures: wrong.map(([name, difference]) => `${name} is ${difference.toExponential(1)} from the CPU`),
    difference: Math.max(...differences.map(([, difference]) => difference)),
    rowsAreIndependent: batches.every(isSame),
  };
}

/** Largest difference, divided by the largest expected magnitude; NaN if a value is NaN. */
function differenceOf(actual: Float32Array, expected: Float32Array): number {
  const scale = expected.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  return actual.reduce((max, value, i) => Math.max(max, Math.abs(value - expected[i])), 0) / scale;
}

/** A bank of directions for the test, which needs no trained one. */
export function testBank({ hiddenSize }: ModelShape, gates: number): Bank {
  const matrix = () => wave(gates * hiddenSize, 1 / Math.sqrt(hiddenSize));
  return { gates, a: matrix(), a0: wave(gates, 1), b: matrix() };
}

/** Irregular values, so that sums do not cancel out. */
function wave(count: number, amplitude: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: count }, (_, i) => amplitude * Math.sin(i * i * 0.37 + i));
}
