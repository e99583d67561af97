import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { KvRow } from "../../gpu-backend/kv/arena.ts";
import { HostRunner } from "../../gpu-backend/kv/host-runner.ts";
import { type ModelFolder, readModelFolder } from "../../gpu-backend/models/safetensors/model-folder.ts";
import { kvFormatFor, weightFormats } from "../../gpu-backend/runtime/products.ts";
import { type Bank, minPrefillTokens, type StepOutput, type StepRunner } from "../../gpu-backend/runtime/step.ts";
import reference from "../fixtures/small-base-reference.json" with { type: "json" };
import { oracleHidden, oracleLogits, oracleLogSumExp } from "../support/oracle.ts";
import { randomWeights } from "../support/random-weights.ts";
import { smallBase } from "../support/small-base.ts";
import { createStepRunner } from "../support/step-runner.ts";
import { grownPast, maxDifference, noPast, randomBank, type StepRow, seededRandom, stepOf } from "../support/steps.ts";
import { tinyLlama } from "../support/tiny-families.ts";

/** Float32 sums of a few hundred products are off by far less than this, results of a wrong mask or head by far more. */
const tolerance = 1e-4;
const seed = 20_261_117;
const random = seededRandom(seed);

/** A Llama whose widths are no multiples of the kernels' vector lengths. */
const smallLlama = {
  ...tinyLlama,
  ...{ vocabularySize: 1003, hiddenSize: 160, layers: 3, heads: 9, kvHeads: 3, headWidth: 32, feedForwardSize: 416 },
};

let model: Pick<ModelFolder, "config" | "weights">;
let bank: Bank;
let runner: StepRunner;

beforeAll(async () => {
  model = await readModelFolder(smallBase);
  bank = randomBank(model.config, 12, 3, random);
  runner = await createStepRunner({ ...model, bank, threads: 2 });
});
afterAll(() => runner.release());

const randomIds = (count: number) =>
  Array.from({ length: count }, () => Math.floor(random() * model.config.vocabularySize));
const randomGates = () => Float32Array.from({ length: bank.gates }, () => random() * 4 - 2);
const row = (tokenIds: number[], gates = new Float32Array(bank.gates)): StepRow => ({
  tokenIds,
  gates,
  ...noPast(model.config),
});

/** A row with a past: its first `pastLength` tokens were prefilled alone. */
async function grownRow(pastLength: number, tokenIds: number[]): Promise<StepRow> {
  const start = row(randomIds(pastLength));
  const input = stepOf(model.config, [start]);
  const past = grownPast(model.config, start, 0, input, await runner.run(input));
  return { tokenIds, gates: randomGates(), past, pastLength };
}

describe("the likeliest token alone", () => {
  const likeliestOnly = { scores: false, hidden: false, only: "likeliest" } as const;

  test("is the first of the ranked tokens; among equal scores the one with the lower id", async () => {
    const rows = [40, 3, 17, 1].map((length) => row(randomIds(length), randomGates()));
    const input = stepOf(model.config, rows, { pastTokens: 64 });
    const V = model.config.vocabularySize;
    // In rows 1 and 3 a bias gives two tokens the same highest score: beside 1e12 a logit vanishes in float32.
    input.bias = {
      rows: Int32Array.of(1, 1, 3, 3),
      ids: Int32Array.of(900, 20, V - 1, 5),
      values: Float32Array.of(1e12, 1e12, 1e12, 1e12),
    };
    const ranked = await runner.run(input);
    const alone = await runner.run({ ...input, want: likeliestOnly });
    expect([ranked.topCount, alone.topCount]).toEqual([64, 1]);
    expect([alone.topIds[1], alone.topIds[3]]).toEqual([20, 5]);
    for (const n of rows.keys()) {
      expect(alone.topIds[n]).toBe(ranked.topIds[n * ranked.topCount]);
      expect(alone.topScores[n]).toBe(ranked.topScores[n * ranked.topCount]);
      expect(alone.logSumExp[n]).toBe(alone.topScores[n]);
    }
  });

  test.each([
    [Number.NaN, "one token", false],
    [Number.POSITIVE_INFINITY, "one token", false],
    // A token with this score has a probability of 0, which is valid.
    [Number.NEGATIVE_INFINITY, "one token", true],
    [Number.NEGATIVE_INFINITY, "every token", false],
  ])("a score of %d of %s is a fault exactly if it is among the ranked scores", async (bad, which, isServed) => {
    const ids = which === "one token" ? [77] : Array.from({ length: model.config.vocabularySize }, (_, id) => id);
    const input = stepOf(model.config, [row(randomIds(5)), row(randomIds(9))], { pastTokens: 64 });
    input.bias = {
      rows: new Int32Array(ids.length).fill(1),
      ids: Int32Array.from(ids),
      values: new Float32Array(ids.length).fill(bad),
    };
    for (const want of [likeliestOnly, { scores: true, hidden: false }]) {
      const { logSumExp } = await runner.run({ ...input, want });
      expect(Array.from(logSumExp, Number.isFinite)).toEqual([true, isServed]);
    }
  });
});

test("the oracle gives PyTorch's logits, and so does the graph", async () => {
  for (const { ids, last_logits_top5, last_logits_sum } of reference) {
    const input = stepOf(model.config, [row(ids)]);
    const { scores: logits, topIds, topScores } = await runner.run(input);
    const hidden = oracleHidden(model.config, model.weights, ids).at(-1)!;
    const expected = oracleLogits(model.config, model.weights, hidden, bank, new Float32Array(bank.gates));
    const difference = maxDifference(logits!, expected);
    expect(difference).toBeLessThan(tolerance);
    last_logits_top5.forEach(([id, logit], rank) => {
      expect(topIds[rank]).toBe(id);
      expect(Math.abs(topScores[rank] - logit)).toBeLessThan(tolerance);
      expect(Math.abs(expected[id] - logit)).toBeLessThan(tolerance);
    });
    // The bound is wide, because the errors of 4,096 logits add up in this sum.
    expect(Math.abs(expected.reduce((a, b) => a + b) - last_logits_sum)).toBeLessThan(0.01);
  }
});

test("against the oracle, a ragged batch of mixed gates gives each row the oracle's logits, log-sum-exp, ranking and target", async () => {
  const rows = [40, 3, 17, 1].map((length) => row(randomIds(length), randomGates()));
  const input = stepOf(model.config, rows, { pastTokens: 64 });
  input.targetIds = Int32Array.of(7, 4095, 0, 300);
  input.inverseTemperatures = Float32Array.of(1, 0.5, 2, 1.25);
  const output = await runner.run(input);
  const V = model.config.vocabularySize;
  let worst = 0;
  rows.forEach(({ tokenIds, gates }, s) => {
    const hidden = oracleHidden(model.config, model.weights, tokenIds).at(-1)!;
    const expected = oracleLogits(model.config, model.weights, hidden, bank, gates);
    const logits = output.scores!.subarray(s * V, (s + 1) * V);
    worst = Math.max(
      worst,
      maxDifference(output.hidden!.subarray(s * hidden.length, (s + 1) * hidden.length), hidden),
      maxDifference(logits, expected),
      Math.abs(output.logSumExp[s] - oracleLogSumExp(expected)),
      Math.abs(output.scaledLogSumExp[s] - oracleLogSumExp(expected.map((x) => x * input.inverseTemperatures[s]))),
    );
    expect(output.targetScores[s]).toBe(logits[input.targetIds[s]]);
    const ranked = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
    const K = output.topCount;
    expect(Array.from(output.topIds.subarray(s * K, (s + 1) * K))).toEqual(ranked.slice(0, K));
    expect(output.topScores[s * K]).toBe(logits[ranked[0]]);
  });
  expect(worst).toBeLessThan(tolerance);
});

test("against the oracle, the row bias lands on its row and id, and nowhere else", async () => {
  const rows = [row(randomIds(5)), row(randomIds(9))];
  const plain = await runner.run(stepOf(model.config, rows));
  const input = stepOf(model.config, rows);
  input.bias = {
    rows: Int32Array.of(1, 0, 1),
    ids: Int32Array.of(11, 11, 4000),
    values: Float32Array.of(2.5, -100, 1),
  };
  const biased = await runner.run(input);
  const expected = plain.scores!.slice();
  const V = model.config.vocabularySize;
  expected[V + 11] += 2.5;
  expected[11] += -100;
  expected[V + 4000] += 1;
  expect(maxDifference(biased.scores!, expected)).toBe(0);
});

test("against the oracle, a repetition penalty divides what is above 0 and multiplies the rest, between an adapter's bias and the request's", async () => {
  const rows = [row(randomIds(5)), row(randomIds(9))];
  const plain = await runner.run(stepOf(model.config, rows));
  const V = model.config.vocabularySize;
  const expected = plain.scores!.slice();
  const ids = Array.from({ length: 400 }, (_, i) => 1 + ((i * 7) % V));
  const entries = ids.map((id, i) => {
    const entry = {
      row: i % 2,
      id,
      penalty: [1.3, 0.1, 10, 1][i % 4],
      value: i % 5 ? 0 : -1.25,
    };
    const { fround } = Math;
    const penalty = fround(entry.penalty);
    const logit = expected[entry.row * V + id];
    expected[entry.row * V + id] = fround(fround(logit > 0 ? logit / penalty : logit * penalty) + entry.value);
    return entry;
  });
  const input = stepOf(model.config, rows);
  input.bias = {
    rows: Int32Array.from(entries, (entry) => entry.row),
    ids: Int32Array.from(ids),
    penalties: Float32Array.from(entries, ({ penalty }) => penalty),
    values: Float32Array.from(entries, ({ value }) => value),
  };
  const changed = await runner.run(input);
  const positive = entries.filter((entry) => plain.scores![entry.row * V + entry.id] > 0).length;
  expect(positive).toBeGreaterThan(20);
  expect(positive).toBeLessThan(380);
  expect(maxDifference(changed.scores!, expected)).toBe(0);
  expect(changed.topScores[0]).toBe(expected.subarray(0, V).reduce((a, b) => Math.max(a, b)));
});

/** The head is computed for every token of a decode pass, without gates. */
function pass(host: HostRunner, phase: "prefill" | "decode", kv: KvRow, tokens: number[]) {
  const count = phase === "decode" ? tokens.length : 0;
  return host.run({
    ...{ phase, rows: [{ kv, tokens }] },
    states: tokens.slice(0, count).map((_, t) => ({ kv, position: kv.positions + t })),
    head: {
      gates: new Float32Array(count * host.gates),
      inverseTemperatures: new Float32Array(count).fill(1),
      targetIds: new Int32Array(count),
      bias: { rows: new Int32Array(0), ids: new Int32Array(0), values: new Float32Array(0) },
      want: { scores: count > 0, hidden: false },
    },
  });
}

test.each(["fp32", "int8"] as const)(
  "a prompt that is parked between its chunks gets the same bits, with keys in %s",
  async (kv) => {
    const weights = randomWeights(smallLlama, seededRandom(seed), 0.1);
    const own = { config: smallLlama, weights, bank: randomBank(smallLlama, 12, 3, random) };
    const steps = await createStepRunner({ ...own, threads: 1, kv });
    const host = new HostRunner(steps, { maxSequences: 2, chunkTokens: 128, kvBytes: 2 ** 26 });
    const ids = Array.from({ length: 300 }, (_, i) => (i * 7) % smallLlama.vocabularySize);
    const lastStates = async (isParked: boolean) => {
      const row = host.kv.open(ids.length);
      for (let from = 0; from < ids.length; from += 128) {
        host.kv.place([{ kv: row, positions: ids.length }]);
        await pass(host, "prefill", row, ids.slice(from, from + 128));
        if (isParked && row.positions < ids.length) host.kv.park(row);
      }
      const states = Float32Array.from(host.kv.state(row, ids.length - 1));
      host.kv.close(row);
      return states;
    };
    const expected = await lastStates(false);
    expect(await lastStates(true)).toEqual(expected);
    await host.release();
  },
);

const families = ["GPT-2", "Llama"].flatMap((family) => weightFormats.map((format) => ({ family, format })));

describe.each(families)("invariants of a $family in $format, bit for bit", ({ family, format }) => {
  beforeAll(async () => {
    if (family === "GPT-2") model = await readModelFolder(smallBase);
    else model = { config: smallLlama, weights: randomWeights(smallLlama, random, 0.1) };
    bank = randomBank(model.config, 12, 3, random);
    await runner.release();
    runner = await createStepRunner({ ...model, bank, threads: 2, format });
  });

  test("tokens that one pass decodes have the bits of a pass each, and so have those after them", async () => {
    const own = await createStepRunner({ ...model, bank, threads: 2, format, kv: kvFormatFor(format) });
    const host = new HostRunner(own, { maxSequences: 2, chunkTokens: 64, kvBytes: 2 ** 27 });
    // Positions at which the past grows, and lengths that are no multiple of a vector.
    for (const [start, count] of [
      [5, 2],
      [57, 8],
      [62, 3],
      [125, 8],
    ]) {
      const ids = randomIds(start + count + 2);
      const scoresOf = async (isSingle: boolean) => {
        const row = host.kv.open(start);
        host.kv.place([{ kv: row, positions: start + 1 }]);
        for (let from = 0; from < start; from += 64)
          await pass(host, "prefill", row, ids.slice(from, Math.min(from + 64, start)));
        const scores: number[] = [];
        // The last of the tokens is dropped and computed again, as after a wrong guess.
        if (!isSingle) scores.push(...(await pass(host, "decode", row, ids.slice(start, start + count))).scores!);
        if (!isSingle) host.kv.cut(row, start + count - 1);
        for (const id of ids.slice(row.positions)) scores.push(...(await pass(host, "decode", row, [id])).scores!);
        host.kv.close(row);
        return scores;
      };
      const V = model.config.vocabularySize;
      const expected = await scoresOf(true);
      expected.splice(count * V, 0, ...expected.slice((count - 1) * V, count * V));
      expect(await scoresOf(false)).toEqual(expected);
    }
    await host.release();
  });

  test("head-only: whatever the gates, hidden states, keys and values are the same; the logits are not", async () => {
    const ids = randomIds(20);
    const runs = await Promise.all(
      [new Float32Array(bank.gates), randomGates(), randomGates()].map((gates) =>
        runner.run(stepOf(model.config, [row(ids, gates)])),
      ),
    );
    for (const other of runs.slice(1)) {
      expect(maxDifference(other.hidden!, runs[0].hidden!)).toBe(0);
      expect(maxDifference(other.present, runs[0].present)).toBe(0);
      expect(maxDifference(other.scores!, runs[0].scores!)).toBeGreaterThan(0.1);
    }
  });

  test("without head rows a pass gives the same keys and values, and nothing else", async () => {
    const input = stepOf(model.config, [row(randomIds(20), randomGates())]);
    const { present } = await runner.run(input);
    const none = { headRows: new Int32Array(0), targetIds: new Int32Array(0), gates: new Float32Array(0) };
    const output = await runner.run({ ...input, ...none, inverseTemperatures: new Float32Array(0) });
    expect(maxDifference(output.present, present)).toBe(0);
    for (const rows of [output.topScores, output.topIds, output.logSumExp, output.scores!, output.hidden!]) {
      expect(rows.length).toBe(0);
    }
  });

  test("a row at temperature 1 has the same scaled log-sum-exp whether the other rows are at 1 or not", async () => {
    const rows = [row(randomIds(9), randomGates()), row(randomIds(5), randomGates())];
    const alone = await runner.run(stepOf(model.config, rows));
    expect(alone.scaledLogSumExp).toEqual(alone.logSumExp);
    const input = stepOf(model.config, rows);
    input.inverseTemperatures = Float32Array.of(1, 2);
    const scaled = (await runner.run(input)).scaledLogSumExp;
    expect(scaled[0]).toBe(alone.logSumExp[0]);
    expect(scaled[1]).not.toBe(alone.logSumExp[1]);
  });

  test("a chunk gives the same bits wherever a step resumes it, alone or beside rows that are resumed at the same place", async () => {
    const starts = [await grownRow(64, randomIds(50)), row(randomIds(50), randomGates())];
    for (const begunTokens of [8, 33, 48]) {
      /** The rows after a pass over the first `begunTokens` tokens of each. */
      const afterFirst = async (rows: StepRow[]): Promise<StepRow[]> => {
        const firsts = rows.map((one) => ({ ...one, tokenIds: one.tokenIds.slice(0, begunTokens) }));
        const input = stepOf(model.config, firsts, { pastTokens: 64 });
        const output = await runner.run(input);
        return rows.map((one, s) => ({
          ...one,
          tokenIds: one.tokenIds.slice(begunTokens),
          past: grownPast(model.config, firsts[s], s, input, output),
          pastLength: one.pastLength + begunTokens,
        }));
      };
      for (const rows of [starts, [starts[0]], [starts[1]]]) {
        const whole = await runner.run(stepOf(model.config, rows, { pastTokens: 64 }));
        const begun = await afterFirst(rows);
        for (const pastTokens of [128, 192]) {
          const end = await runner.run({ ...stepOf(model.config, begun, { pastTokens }), begunTokens });
          expect(maxDifference(end.scores!, whole.scores!)).toBe(0);
          expect(maxDifference(end.hidden!, whole.hidden!)).toBe(0);
        }
      }
    }
  });

  test("rows whose past is fed in two parts, each as long as it must be, give the bits that they give alone", async () => {
    const rows = await Promise.all([5, 60, 37, 300, 420].map((length) => grownRow(length, randomIds(1))));
    const { vocabularySize: V } = model.config;
    const first = stepOf(model.config, rows.slice(0, 3), { pastTokens: 64 });
    const last = stepOf(model.config, rows.slice(3), { pastTokens: 448 });
    const longPast = { sequences: 2, pastTokens: 448, past: last.past };
    const input = { ...stepOf(model.config, rows, { pastTokens: 512 }), past: first.past, pastTokens: 64, longPast };
    const together = await runner.run(input);
    for (const [s, one] of rows.entries()) {
      const alone = await runner.run(stepOf(model.config, [one], { pastTokens: 512 }));
      expect(maxDifference(alone.scores!, together.scores!.subarray(s * V, (s + 1) * V))).toBe(0);
    }
  });

  test.each([
    ["decode", false, (i: number) => grownRow([5, 37, 60][i % 3], randomIds(1))],
    ["prefill", true, async (i: number) => row(randomIds([64, 30, 7, 1][i % 4]), randomGates())],
    ["second chunk", true, (i: number) => grownRow(64, randomIds([32, 5, 1][i % 3]))],
  ])(
    "batch-invariant in %s: a row is the same among 32, alone or, of a prefill, among two, and under any padding",
    async (_, prefill, make) => {
      const rows = await Promise.all(Array.from({ length: 32 }, (_, i) => make(i)));
      const { vocabularySize: V, hiddenSize: D } = model.config;
      const together = await runner.run(stepOf(model.config, rows, { pastTokens: 64 }));
      for (const s of [0, 1, 2, 3, 31]) {
        const tokens = prefill ? Math.max(minPrefillTokens, rows[s].tokenIds.length) : 1;
        const shapes = [64, 192, 448, 512].map((pastTokens) => ({ pastTokens, tokens }));
        // A row without a past can also be run with no positions for a past.
        if (prefill && rows[s].pastLength === 0) shapes.push({ pastTokens: 0, tokens });
        if (prefill) shapes.push({ pastTokens: 128, tokens: tokens + 13 });
        const alone = await runner.run(stepOf(model.config, [rows[s]], shapes[0]));
        for (const shape of shapes) {
          const expectRow = async (mates: StepRow[], expected: StepOutput, at: number) => {
            const output = await runner.run(stepOf(model.config, mates, shape));
            const rowOf = (array: Float32Array, width: number, n: number) => array.subarray(n * width, (n + 1) * width);
            expect(maxDifference(rowOf(output.scores!, V, 0), rowOf(expected.scores!, V, at))).toBe(0);
            expect(maxDifference(rowOf(output.hidden!, D, 0), rowOf(expected.hidden!, D, at))).toBe(0);
            expect(output.logSumExp[0]).toBe(expected.logSumExp[at]);
          };
          await expectRow([rows[s]], prefill ? alone : together, prefill ? 0 : s);
          // A prefill of one row uses an operator of its own; two rows use the same operator as the batch.
          if (prefill) await expectRow([rows[s], rows[s]], together, s);
        }
      }
    },
  );
});
