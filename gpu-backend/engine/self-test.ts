/**
 * The self-test of a device: passes as serving has them, on the device and on the CPU. Some adapters compute wrong without any error,
 * for example attention over 32 tokens and more where a subgroup has 8 lanes. Not here: what follows from the result (runtime/device.ts).
 */
import { joinArrays } from "../../shared/bytes.ts";
import { safeRunTokens } from "../kv/device-runner.ts";
import type { Kv, Pass, Runner } from "../kv/runner.ts";
import type { SelfTest } from "../runtime/device.ts";
import type { Bank, ModelShape } from "../runtime/step.ts";

/** Largest difference from the CPU's logits that is right, relative to the largest logit. Sums in another order differ by a tenth. */
export const tolerance = 1e-4;
/** Batches in which the same rows are compared. The last is the largest. */
const batches = [1, 4, 8, 32];
/** Rows that the test has at the same time. */
export const testRows = batches.at(-1)! + 1;
/** More than any vector of a kernel, and no multiple of one. */
const promptTokens = 90;
const decodedTokens = 3;

/** Logits by case. */
type Cases = Map<string, Float32Array>;

/**
 * `open` opens the host's runner, or a device's whose runs have at most so many tokens of a row. They are shortened if that makes every
 * case right.
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

  /** Rows that begin with a different number of the first row's positions. */
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
  // Not `> tolerance`, which is false for NaN.
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

/** A bank of adapters for the test, without a trained one. */
export function testBank({ hiddenSize }: ModelShape, gates: number): Bank {
  const matrix = () => wave(gates * hiddenSize, 1 / Math.sqrt(hiddenSize));
  return { gates, a: matrix(), a0: wave(gates, 1), b: matrix() };
}

/** Irregular values, so that sums do not cancel out. */
function wave(count: number, amplitude: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: count }, (_, i) => amplitude * Math.sin(i * i * 0.37 + i));
}
