/** Mixtures and their evidence, computed as rows of the head: their values, and that a row's bits do not depend on the other rows. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { meanAdapter } from "../../gpu-backend/adapters/adapter.ts";
import { type ModelFolder, readModelFolder } from "../../gpu-backend/models/safetensors/model-folder.ts";
import { weightFormats } from "../../gpu-backend/runtime/products.ts";
import { type Bank, noTokens, type StepInput, type StepRunner } from "../../gpu-backend/runtime/step.ts";
import { smallBase } from "../support/small-base.ts";
import { createStepRunner } from "../support/step-runner.ts";
import { maxDifference, noPast, randomBank, seededRandom, stepOf } from "../support/steps.ts";

const seed = 20_261_129;
const random = seededRandom(seed);
const prompt = 24;
/** Error of log-probabilities that are computed from float32 logits whose size is a few units. */
const tolerance = 1e-4;
/** The same error in other formats than fp32, which round each row's state to 8 bits, so that logits are not quite linear in it. */
const roundingTolerance = 0.2;

let model: ModelFolder;
let bank: Bank;
beforeAll(async () => {
  model = await readModelFolder(smallBase);
  bank = randomBank(model.config, 12, 3, random);
});

const randomGates = () => Float32Array.from({ length: bank.gates }, () => random() * 4 - 2);
const zeros = () => new Float32Array(bank.gates);

/** States [prompt, D] of a random prompt, which later runs of the head read. */
async function statesOf(runner: StepRunner): Promise<Float32Array<ArrayBuffer>> {
  const tokenIds = Array.from({ length: prompt }, () => Math.floor(random() * model.config.vocabularySize));
  const row = { tokenIds, gates: zeros(), ...noPast(model.config) };
  return (await runner.run(stepOf(model.config, [row]))).states;
}

/** Input of a run of the head alone. Each row reads the state at a position, with gates and a target of its own. */
function headOf(
  states: Float32Array,
  rows: { at: number; gates: Float32Array; target: number }[],
  only?: "sums",
): StepInput {
  return {
    ...noTokens(),
    fedStates: states,
    rows: Int32Array.from(rows, ({ at }) => at),
    gates: Float32Array.from(rows.flatMap(({ gates }) => [...gates])),
    inverseTemperatures: new Float32Array(rows.length).fill(1),
    targetIds: Int32Array.from(rows, ({ target }) => target),
    bias: { rows: new Int32Array(0), ids: new Int32Array(0), values: new Float32Array(0) },
    want: { scores: only === undefined, hidden: false, only },
  };
}

describe.each(weightFormats)("%s", (format) => {
  let runner: StepRunner;
  let states: Float32Array;
  beforeAll(async () => {
    runner = await createStepRunner({ ...model, bank, threads: 2, format });
    states = await statesOf(runner);
  });
  afterAll(() => runner.release());

  const rowAt = (at: number, gates: Float32Array = randomGates()) => ({
    at,
    gates,
    target: Math.floor(random() * 4000),
  });
  const logprobsOf = async (gates: Float32Array) => {
    const { scores, logSumExp } = await runner.run(headOf(states, [rowAt(5, gates)]));
    return Float32Array.from(scores!, (score) => score - logSumExp[0]);
  };

  test("a target's log-probability alone is that of the whole row, and its bits do not depend on the other rows", async () => {
    const rows = Array.from({ length: 61 }, (_, i) => rowAt(i % prompt, i % 4 === 0 ? zeros() : undefined));
    const whole = await runner.run(headOf(states, rows));
    const targets = await runner.run(headOf(states, rows, "sums"));
    expect(targets.topCount).toBe(1);
    expect(targets.targetScores).toEqual(whole.targetScores);
    expect(maxDifference(targets.logSumExp, whole.logSumExp)).toBeLessThan(tolerance);
    for (const some of [[0], [7], [60], [3, 8], [1, 2, 4, 11, 30, 31, 32, 59]]) {
      const alone = await runner.run(
        headOf(
          states,
          some.map((n) => rows[n]),
          "sums",
        ),
      );
      some.forEach((n, i) => {
        expect(alone.targetScores[i]).toBe(targets.targetScores[n]);
        expect(alone.logSumExp[i]).toBe(targets.logSumExp[n]);
      });
    }
  });

  test("a row without gates has the bits of a graph without a bank, whatever the other rows are", async () => {
    const [base, other] = [rowAt(3, zeros()), rowAt(9, zeros())];
    const none = { gates: 0, a: new Float32Array(0), a0: new Float32Array(0), b: new Float32Array(0) };
    const bare = await createStepRunner({ ...model, bank: none, threads: 2, format });
    const alone = await bare.run(headOf(states, [{ ...base, gates: none.a }]));
    await bare.release();
    const V = model.config.vocabularySize;
    for (const mates of [[rowAt(3)], Array.from({ length: 40 }, (_, i) => rowAt(i % prompt)), [other]]) {
      const among = await runner.run(headOf(states, [...mates, base]));
      expect(among.scores!.subarray(mates.length * V)).toEqual(alone.scores);
      expect(among.logSumExp[mates.length]).toBe(alone.logSumExp[0]);
    }
  });

  test("a mixture's log-probability of every token is at least the weighted mean of its experts'", async () => {
    const experts = [zeros(), randomGates(), randomGates()];
    const weights = [0.3, 0.5, 0.2];
    const mean = meanAdapter(
      experts.map((gates) => ({ gates, changes: [] })),
      weights,
    )!;
    const each = await Promise.all(experts.map(logprobsOf));
    const mixed = await logprobsOf(mean.gates!);
    const slack = mixed.map(
      (logprob, id) => logprob - weights.reduce((sum, weight, e) => sum + weight * each[e][id], 0),
    );
    const constants = maxDifference(slack, new Float32Array(slack.length).fill(slack[0]));
    console.log(
      `${format}: log p − Σ w·log p is ${slack[0].toFixed(4)} nats, the same for all tokens within ${constants}`,
    );
    const allowed = format === "fp32" ? tolerance : roundingTolerance;
    expect(Math.min(...slack)).toBeGreaterThan(-allowed);
    expect(constants).toBeLessThan(2 * allowed);
  });
});
