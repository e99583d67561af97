import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { weightFormats } from "../../gpu-backend/runtime/gpt2-graph.ts";
import { type ModelFolder, readModelFolder } from "../../gpu-backend/runtime/model-folder.ts";
import { createStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import {
  type Bank,
  logitOf,
  type MixedInput,
  minPrefillTokens,
  noPlainRows,
  noTokens,
  type RowOutput,
  type StepInput,
  type StepOutput,
  type StepRunner,
} from "../../gpu-backend/runtime/step.ts";
import { randomWeights } from "../bench/model.ts";
import { smallBase } from "../support/small-base.ts";
import { maxDifference, noPast, randomBank, seededRandom, stepOf } from "../support/steps.ts";
import { webgpuFailure } from "../support/webgpu.ts";

const seed = 20_261_126;
/** Probabilities are float32 sums of a few thousand terms; a wrong weight or expert is off by far more. */
const tolerance = 2e-5;
const random = seededRandom(seed);
const noWebgpu = await webgpuFailure();
const prompt = 40;
const J = 3;

let model: ModelFolder;
let bank: Bank;
beforeAll(async () => {
  model = await readModelFolder(smallBase);
  bank = randomBank(model.config, 12, 3, random);
});

const none = { rows: new Int32Array(0), ids: new Int32Array(0), values: new Float32Array(0) };
const randomIds = (count: number) => Array.from({ length: count }, () => Math.floor(random() * 4000));
const floats = (count: number) => Float32Array.from({ length: count }, () => random() * 2 - 1);

/** A prompt that has been prefilled: its tokens, and the pointer's keys and states of each position. */
interface Prefilled {
  ids: number[];
  keys: Float32Array; // [H, prompt, d]
  states: Float32Array; // [prompt, D]
}

async function prefill(runner: StepRunner): Promise<Prefilled> {
  const { layers, hiddenSize: D, heads: H } = model.config;
  const d = D / H;
  const ids = randomIds(prompt);
  const gates = new Float32Array(bank.gates);
  const { present } = await runner.run(stepOf(model.config, [{ tokenIds: ids, gates, ...noPast(model.config) }]));
  const size = prompt * D;
  const keys = present.slice(2 * layers * size, (2 * layers + 1) * size);
  const ofHeads = present.subarray((2 * layers + 1) * size);
  const states = new Float32Array(size);
  for (let h = 0; h < H; h++) {
    for (let t = 0; t < prompt; t++) {
      for (let e = 0; e < d; e++) states[t * D + h * d + e] = ofHeads[(h * prompt + t) * d + e];
    }
  }
  return { ids, keys, states };
}

/** One row of a mixture: a state of a prompt, gates and weights of its adapters. */
interface Row {
  of: Prefilled;
  position: number;
  gates: Float32Array; // [J, Q]
  weights: number[]; // base, adapters, pointer
  sharpness: number;
  sentinel: number;
}

const rowOf = (of: Prefilled, adapters: number): Row => {
  const weights = Array.from({ length: J + 2 }, (_, i) => (i > adapters && i <= J ? 0 : 0.1 + random()));
  const sum = weights.reduce((a, b) => a + b, 0);
  const gates = floats(J * bank.gates).fill(0, adapters * bank.gates);
  // The sentinel takes a part of the attention that is neither nothing nor all, and rows differ in it.
  const pointer = { sharpness: 12 + 6 * random(), sentinel: 0.2 + 0.6 * random() };
  return { of, position: prompt - 1, gates, weights: weights.map((w) => w / sum), ...pointer };
};

/** The run of the head alone over rows, whose prompts lie in P positions each. */
function headOf(rows: readonly Row[], P: number, adapters = J): StepInput {
  const { hiddenSize: D, heads: H } = model.config;
  const d = D / H;
  const X = rows.length;
  const keys = new Float32Array(X * P * D).fill(7);
  const fedStates = new Float32Array(X * D);
  const gates = new Float32Array(X * adapters * bank.gates);
  const ids = new Int32Array(X * P);
  rows.forEach(({ of, position, gates: own }, x) => {
    for (let h = 0; h < H; h++) {
      keys.set(of.keys.subarray(h * prompt * d, (h + 1) * prompt * d), (x * H + h) * P * d);
    }
    fedStates.set(of.states.subarray(position * D, (position + 1) * D), x * D);
    gates.set(own.subarray(0, adapters * bank.gates), x * adapters * bank.gates);
    for (let i = 0; i < position; i++) ids[x * P + i] = of.ids[i + 1];
  });
  const mixed: MixedInput = {
    rows: Int32Array.from(rows.keys()),
    adapters,
    gates,
    adapterBias: { ...none, adapters: new Int32Array(0) },
    targetIds: Int32Array.from(rows, (_, x) => 5 + x),
    mixture: {
      baseWeights: Float32Array.from(rows, ({ weights }) => weights[0]),
      adapterWeights: Float32Array.from(rows.flatMap(({ weights }) => weights.slice(1, 1 + adapters))),
      inverseTemperatures: new Float32Array(X).fill(1.25),
      bias: none,
      pointer: {
        ...{ keys, count: X, positions: P, queries: Int32Array.from(rows.keys()), ids },
        sharpness: Float32Array.from(rows, ({ sharpness }) => sharpness),
        sentinels: Float32Array.from(rows, ({ sentinel }) => sentinel),
        lengths: Int32Array.from(rows, ({ position }) => position),
        answers: Int32Array.from(rows.keys()),
        weights: Float32Array.from(rows, ({ weights }) => weights[J + 1]),
        odds: Float32Array.from(rows, ({ weights }) => weights[J + 1] / (1 - weights[J + 1])),
      },
    },
  };
  return {
    ...noTokens(P),
    ...noPlainRows(),
    ...{ fedStates, mixed },
    want: { scores: true, hidden: false },
  };
}

/** The mixtures of rows `keep`, from what a run over all rows kept of their experts. */
async function mixedLater(runner: StepRunner, rows: readonly Row[], keep: number[]): Promise<RowOutput> {
  const P = 64;
  const T = minPrefillTokens;
  const keeping = headOf(rows, P);
  const evidence = {
    ...keeping.mixed!.mixture!.pointer,
    queries: Int32Array.from({ length: rows.length * T }, (_, i) => Math.floor(i / T)),
    answers: Int32Array.from(rows, (_, x) => x * T),
  };
  const { mixed } = await runner.run({ ...keeping, mixed: { ...keeping.mixed!, keep, evidence, mixture: undefined } });
  const kept = keep.map((x) => rows[x]);
  const cosines = Float32Array.from(keep.flatMap((x) => [...mixed!.cosines!.subarray(x * P, (x + 1) * P)]));
  const mixture = headOf(kept, P).mixed!.mixture!;
  return runner.mix({ ...mixture, adapters: J, experts: mixed!.kept!, cosines, wantsScores: true });
}

const likelihoodsOf = ({ mixed }: StepOutput, x: number) => {
  const { scores, logSumExp } = mixed!.rows!;
  const V = scores!.length / logSumExp.length;
  return scores!.subarray(x * V, (x + 1) * V);
};

describe.skipIf(noWebgpu)(`mixed rows on WebGPU${noWebgpu ? `, skipped: ${noWebgpu}` : ""}`, () => {
  test("are the CPU's, to rounding", async () => {
    const runners = [
      await createStepRunner({ ...model, bank, threads: 1 }),
      await createStepRunner({ ...model, bank, threads: 1, device: "webgpu" }),
    ];
    const prompts = [await prefill(runners[0]), await prefill(runners[0])];
    const rows = prompts.map((of, i) => rowOf(of, 3 - i));
    const [onCpu, onGpu] = [await runners[0].run(headOf(rows, 64)), await runners[1].run(headOf(rows, 64))];
    const later = await mixedLater(runners[1], rows, [0, 1]);
    const difference = Math.max(
      ...[onGpu.mixed!.rows!, later].map(({ scores }) => maxDifference(scores!, onCpu.mixed!.rows!.scores!)),
    );
    expect(difference).toBeLessThan(1e-3);
    for (const runner of runners) await runner.release();
  });
});

describe.each(weightFormats)("mixed rows in %s", (format) => {
  let runner: StepRunner;
  let prompts: Prefilled[];
  beforeAll(async () => {
    runner = await createStepRunner({ ...model, bank, threads: 2, format });
    prompts = [];
    for (let i = 0; i < 5; i++) prompts.push(await prefill(runner));
  });
  afterAll(() => runner.release());

  test("are the weighted sum of the experts' probabilities, and the pointer's", async () => {
    const row = rowOf(prompts[0], J);
    const { mixed } = await runner.run(headOf([row], 64));
    const { hiddenSize: D, heads: H } = model.config;
    const Q = bank.gates;
    const plain = await runner.run({
      ...headOf([row], 64),
      ...{ mixed: undefined, plainRows: new Int32Array(J + 1), inverseTemperatures: new Float32Array(J + 1).fill(1) },
      ...{ gates: Float32Array.of(...new Float32Array(Q), ...row.gates), targetIds: new Int32Array(J + 1) },
    });
    const V = model.config.vocabularySize;
    const p = new Float64Array(V);
    for (let e = 0; e <= J; e++) {
      for (let v = 0; v < V; v++) p[v] += row.weights[e] * Math.exp(plain.scores![e * V + v] - plain.logSumExp[e]);
    }
    const keyAt = (t: number) =>
      Float64Array.from({ length: D }, (_, e) => {
        const d = D / H;
        return row.of.keys[(Math.floor(e / d) * prompt + t) * d + (e % d)];
      });
    const asked = keyAt(row.position);
    const masses = Array.from({ length: row.position }, (_, i) =>
      Math.exp(row.sharpness * keyAt(i).reduce((sum, x, e) => sum + x * asked[e], 0)),
    );
    const ofSentinel = row.sentinel * Math.exp(row.sharpness);
    const total = masses.reduce((a, b) => a + b, ofSentinel);
    const share = row.weights[J + 1];
    for (let v = 0; v < V; v++) p[v] *= 1 + (share / (1 - share)) * (ofSentinel / total);
    masses.forEach((mass, i) => {
      p[row.of.ids[i + 1]] += (share * mass) / total;
    });
    const difference = maxDifference(mixed!.rows!.scores!.map(Math.log), p.map(Math.log));
    expect(difference).toBeLessThan(tolerance);
    const target = Math.exp(plain.scores![5] - plain.logSumExp[0]);
    expect(Math.abs(mixed!.baseTargets[0] - target)).toBeLessThan(1e-6);
  });

  test("give the same bits alone, among others, with fewer adapters fed and in any number of positions", async () => {
    const rows = prompts.map((of, i) => rowOf(of, [3, 1, 2, 0, 1][i]));
    const together = await runner.run(headOf(rows, 128));
    for (const [x, row] of rows.entries()) {
      const own = row.gates.subarray(bank.gates).some((gate) => gate !== 0)
        ? J
        : Number(row.gates.some((gate) => gate !== 0));
      for (const [P, adapters] of [
        [64, J],
        [128, own],
      ]) {
        const alone = headOf([row], P, adapters);
        alone.mixed!.targetIds[0] = 5 + x;
        const output = await runner.run(alone);
        expect(maxDifference(likelihoodsOf(output, 0), likelihoodsOf(together, x))).toBe(0);
        expect(output.mixed!.baseTargets[0]).toBe(together.mixed!.baseTargets[x]);
        if (adapters > 0) expect(output.mixed!.adapterTargets[0]).toBe(together.mixed!.adapterTargets[x * J]);
        expect(output.mixed!.rows!.scaledLogSumExp[0]).toBe(together.mixed!.rows!.scaledLogSumExp[x]);
      }
    }
  });

  test("are the same mixtures later, from what a run kept of their experts, to the same bits alone and among others", async () => {
    const rows = prompts.map((of, i) => rowOf(of, [3, 1, 2, 0, 1][i]));
    const computed = await runner.run(headOf(rows, 64));
    const together = await mixedLater(runner, rows, [4, 1]);
    const V = model.config.vocabularySize;
    for (const [u, x] of [4, 1].entries()) {
      const own = together.scores!.subarray(u * V, (u + 1) * V);
      expect(maxDifference(own.map(Math.log), likelihoodsOf(computed, x).map(Math.log))).toBeLessThan(tolerance);
      expect(together.logSumExp[u]).toBeCloseTo(computed.mixed!.rows!.logSumExp[x], 5);
      const alone = await mixedLater(runner, rows, [x]);
      expect(maxDifference(alone.scores!, own)).toBe(0);
      expect(alone.scaledLogSumExp[0]).toBe(together.scaledLogSumExp[u]);
    }
  });

  test("know how like their keys are to those of their prompt, to the same bits alone, among others and in any number of positions", async () => {
    const { hiddenSize: D, heads: H } = model.config;
    const rows = prompts.map((of) => rowOf(of, 1));
    const cosinesOf = async (asked: readonly Row[], P: number, T: number) => {
      const input = headOf(asked, P);
      const { keys, count, positions } = input.mixed!.mixture!.pointer;
      input.mixed!.evidence = {
        ...{ keys, count, positions },
        queries: Int32Array.from({ length: count * T }, (_, i) => Math.floor(i / T)),
        answers: Int32Array.from(asked, (_, x) => x * T + T - 1),
      };
      input.mixed!.mixture = undefined;
      const { cosines } = (await runner.run(input)).mixed!;
      return asked.map((_, x) => cosines!.subarray(x * P, x * P + prompt));
    };
    const together = await cosinesOf(rows, 128, 16);
    for (const [x, row] of rows.entries()) {
      const [alone] = await cosinesOf([row], 64, minPrefillTokens);
      expect(maxDifference(alone, together[x])).toBe(0);
      const expected = Float64Array.from({ length: prompt }, (_, t) => {
        let cosine = 0;
        for (let e = 0; e < D; e++) {
          const at = (position: number) => (Math.floor(e / (D / H)) * prompt + position) * (D / H) + (e % (D / H));
          cosine += row.of.keys[at(row.position)] * row.of.keys[at(t)];
        }
        return cosine;
      });
      expect(maxDifference(alone, expected)).toBeLessThan(1e-5);
      expect(alone[row.position]).toBeCloseTo(1, 5);
    }
  });

  test.each([
    ["small", [-1.5, 2, 0.25]],
    ["forbidding and demanding", [-100, 100, 100]],
    ["far beyond float32", [-2000, 1500, 1400]],
  ])("a %s bias is added to their logarithms, and to no other row's", async (_, values) => {
    const rows = [rowOf(prompts[0], J), rowOf(prompts[1], 1)];
    const plain = await runner.run(headOf(rows, 64));
    const biased = headOf(rows, 64);
    const ids = [3, 11, 200];
    biased.mixed!.mixture!.bias = {
      ...{ rows: Int32Array.of(0, 0, 0), ids: Int32Array.from(ids), values: Float32Array.from(values) },
    };
    const output = await runner.run(biased);
    expect(maxDifference(likelihoodsOf(output, 1), likelihoodsOf(plain, 1))).toBe(0);
    const expected = Float64Array.from(likelihoodsOf(plain, 0), Math.log);
    ids.forEach((id, i) => {
      expected[id] += values[i];
    });
    const highest = Math.max(...expected);
    const total = highest + Math.log(expected.reduce((sum, logit) => sum + Math.exp(logit - highest), 0));
    const { logSumExp, topIds, topScores } = output.mixed!.rows!;
    let worst = 0;
    likelihoodsOf(output, 0).forEach((p, id) => {
      // Less is none that float32 holds beside the greatest.
      if (expected[id] - highest > -160)
        worst = Math.max(worst, Math.abs(logitOf(p, true) - logSumExp[0] - (expected[id] - total)));
      // By how much depends on how likely the greatest was without its bias.
      else expect(logitOf(p, true) - logSumExp[0]).toBeLessThan(-140);
    });
    expect(logitOf(topScores[0], true)).toBeLessThanOrEqual(logSumExp[0]);
    topIds.subarray(0, 8).forEach((id, rank) => {
      const isHeld = expected[id] - highest > -160;
      if (isHeld) expect(expected[id]).toBeGreaterThan(expected.toSorted().at(-1 - rank)! - tolerance);
    });
    expect(worst).toBeLessThan(tolerance);
  });
});

test("a repetition penalty is a power of the probability, to the same bits alone, among others, and however many tokens have one", async () => {
  const runner = await createStepRunner({ ...model, bank, threads: 2 });
  const prompts: Prefilled[] = [];
  for (let i = 0; i < 3; i++) prompts.push(await prefill(runner));
  const rows = prompts.map((of, i) => rowOf(of, i + 1));
  const plain = await runner.run(headOf(rows, 64));
  const changed = (asked: readonly Row[], entries: [row: number, id: number, penalty: number, value: number][]) => {
    const input = headOf(asked, 64);
    input.mixed!.mixture!.bias = {
      rows: Int32Array.from(entries, ([row]) => row),
      ids: Int32Array.from(entries, ([, id]) => id),
      penalties: Float32Array.from(entries, ([, , penalty]) => penalty),
      values: Float32Array.from(entries, ([, , , value]) => value),
    };
    return runner.run(input);
  };
  let worst = 0;
  // 2 and 3 have operations of their own where there is one power alone.
  for (const penalty of [0.1, 1, 1.3, 2, 3, 10]) {
    const ids = [...new Set(prompts[1].ids)];
    const together = await changed(rows, [
      [0, 9, 1, 0.5],
      ...ids.map((id, i): [number, number, number, number] => [1, id, penalty, i % 3 ? 0 : 1.5]),
    ]);
    const alone = await changed(
      [rows[1]],
      ids.map((id, i) => [0, id, penalty, i % 3 ? 0 : 1.5]),
    );
    const [before, after] = [plain, together].map((output) => likelihoodsOf(output, 1));
    expect(maxDifference(likelihoodsOf(alone, 0), after)).toBe(0);
    expect(alone.mixed!.rows!.scaledLogSumExp[0]).toBe(together.mixed!.rows!.scaledLogSumExp[1]);
    for (let i = 0; i < 24; i += 3) {
      const single = await changed([rows[1]], [[0, ids[i], penalty, 1.5]]);
      expect(likelihoodsOf(single, 0)[ids[i]]).toBe(after[ids[i]]);
    }
    expect(maxDifference(likelihoodsOf(together, 2), likelihoodsOf(plain, 2))).toBe(0);
    before.forEach((p, id) => {
      const i = ids.indexOf(id);
      if (i < 0) {
        expect(after[id]).toBe(p);
        return;
      }
      const logprob = Math.fround(penalty) * Math.log(p) + (i % 3 ? 0 : 1.5);
      // Less is none that float32 holds.
      if (logprob > -80) worst = Math.max(worst, Math.abs(Math.log(after[id]) - logprob));
      else expect(after[id]).toBeLessThan(1e-34);
    });
  }
  expect(worst).toBeLessThan(tolerance);
  await runner.release();
});

test("rows of a vocabulary that no vector divides have the same bits alone, among others, and on any number of threads", async () => {
  // ONNX Runtime's logarithm and sum take what is left over in another way.
  const V = 5003;
  const config = { ...model.config, vocabularySize: V, stopIds: [V - 1] };
  const weights = randomWeights(config, random);
  const own = randomBank(config, 12, 3, random);
  const runners = await Promise.all(
    [1, 2, 3].map((threads) => createStepRunner({ config, weights, bank: own, threads })),
  );
  const prompts: Prefilled[] = [];
  for (let i = 0; i < 5; i++) prompts.push(await prefill(runners[0]));
  const some = prompts.map((of, i) => rowOf(of, [3, 1, 2, 0, 1][i]));
  // Each at several distances from the beginning, so that vectors begin elsewhere in it.
  const rows = Array.from({ length: 17 }, (_, x) => some[x % some.length]);
  for (const runner of runners) {
    const together = (await runner.run(headOf(rows, 64))).mixed!.rows!;
    for (const [i, row] of some.entries()) {
      const alone = (await runners[0].run(headOf([row], 64))).mixed!.rows!;
      for (let x = i; x < rows.length; x += some.length) {
        expect(maxDifference(alone.scores!, together.scores!.subarray(x * V, (x + 1) * V))).toBe(0);
        expect(alone.logSumExp[0]).toBe(together.logSumExp[x]);
        expect(alone.scaledLogSumExp[0]).toBe(together.scaledLogSumExp[x]);
      }
    }
  }
  for (const runner of runners) {
    await runner.release();
  }
});
