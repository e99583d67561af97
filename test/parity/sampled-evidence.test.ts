/**
 * Evidence over a large vocabulary: what the graph says of a prompt's tokens under adapters that are gates alone is the estimate by
 * its definition, near what all tokens would say, and the same bits whatever else runs.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { gpt2Config } from "../../gpu-backend/runtime/model-config.ts";
import { createStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import {
  type Bank,
  type MixedInput,
  minPrefillTokens,
  noPlainRows,
  noTokens,
  type StepInput,
  type StepRunner,
} from "../../gpu-backend/runtime/step.ts";
import { estimatedProbability, sampleOf } from "../../gpu-backend/runtime/vocabulary-sample.ts";
import type { MixtureRequest } from "../../shared/contracts/inference.ts";
import { evidencePositions } from "../../shared/math/evidence.ts";
import { randomWeights } from "../bench/model.ts";
import { createEngineHarness, type EngineHarness, sequenceRequest } from "../support/engine-harness.ts";
import { maxDifference, randomBank, seededRandom } from "../support/steps.ts";
import { webgpuFailure } from "../support/webgpu.ts";

const seed = 20_261_127;
/** Float32 sums of some thousand terms. */
const tolerance = 2e-5;
const random = seededRandom(seed);
/** No vector divides it. */
const config = gpt2Config({
  ...{ vocabularySize: 20_003, hiddenSize: 32, layers: 1, heads: 2, contextTokens: 64 },
  stopIds: [20_002],
});
const sample = sampleOf(config.vocabularySize)!;
const J = 3;
const P = 4;
const floats = (count: number, width = 2) => Float32Array.from({ length: count }, () => (random() - 0.5) * width);

const noWebgpu = await webgpuFailure();

let bank: Bank;
const weights = randomWeights(config, random);
beforeAll(() => {
  bank = randomBank(config, 12, 3, random);
});

interface Row {
  state: Float32Array; // [D]
  targetId: number;
  adapters: number;
  gates: Float32Array; // [J, Q]
  isKept?: boolean;
  /** What the first adapter adds to the target's logit by a row bias. */
  bias?: number;
}

const rowOf = (targetId: number, adapters: number): Row => ({
  ...{ state: floats(config.hiddenSize), targetId, adapters },
  gates: floats(J * bank.gates, 6).fill(0, adapters * bank.gates),
});

/** A run of the head alone over rows that are evidence. */
function evidenceOf(rows: readonly Row[], adapters = J): StepInput {
  const { hiddenSize: D } = config;
  const X = rows.length;
  const biased = [...rows.keys()].filter((x) => rows[x].bias !== undefined);
  const mixed: MixedInput = {
    ...{ rows: Int32Array.from(rows.keys()), adapters, targetIds: Int32Array.from(rows, ({ targetId }) => targetId) },
    gates: Float32Array.from(rows.flatMap(({ gates }) => [...gates.subarray(0, adapters * bank.gates)])),
    adapterBias: {
      rows: Int32Array.from(biased),
      ids: Int32Array.from(biased, (x) => rows[x].targetId),
      values: Float32Array.from(biased, (x) => rows[x].bias!),
      adapters: new Int32Array(biased.length),
    },
    keep: [...rows.keys()].filter((x) => rows[x].isKept),
    evidence: {
      ...{ keys: new Float32Array(P * D), count: 1, positions: P },
      ...{ queries: new Int32Array(minPrefillTokens), answers: new Int32Array(X) },
    },
  };
  return {
    ...noTokens(P),
    ...noPlainRows(),
    mixed,
    fedStates: Float32Array.from(rows.flatMap(({ state }) => [...state])),
    want: { scores: false, hidden: false },
  };
}

const targetsOf = async (runner: StepRunner, rows: readonly Row[], adapters = J) =>
  (await runner.run(evidenceOf(rows, adapters))).mixed!.adapterTargets;

/** Common tokens, sampled ones, and others. */
const someRows = (): Row[] => {
  const [start, end] = sample.ranges[5];
  const [, common] = sample.ranges[0];
  const ids = [3, start, config.vocabularySize - 1, common - 1, end - 1, common, end];
  return ids.map((id, i) => rowOf(id, [3, 1, 2, 3, 1, 2, 3][i]));
};

describe.each(["fp32", "int8"] as const)("in %s", (format) => {
  let runner: StepRunner;
  beforeAll(async () => {
    runner = await createStepRunner({ config, weights, bank, threads: 2, format });
  });
  afterAll(() => runner.release());

  test("the estimate is that of its definition, and near what all tokens say", async () => {
    const rows = someRows();
    const targets = await targetsOf(runner, rows);
    const { hiddenSize: D, vocabularySize: V } = config;
    let [ofDefinition, ofAll] = [0, 0];
    for (const [x, { state, targetId, adapters, gates }] of rows.entries()) {
      const Q = bank.gates;
      const plain = await runner.run({
        ...evidenceOf([rows[x]]),
        ...{ mixed: undefined, plainRows: new Int32Array(J + 1), fedStates: state, targetIds: new Int32Array(J + 1) },
        ...{ gates: Float32Array.of(...new Float32Array(Q), ...gates), want: { scores: true, hidden: false } },
        inverseTemperatures: new Float32Array(J + 1).fill(1),
      });
      expect(state).toHaveLength(D);
      const p = Array.from({ length: J + 1 }, (_, e) =>
        Float64Array.from(plain.scores!.subarray(e * V, (e + 1) * V), (s) => Math.exp(s - plain.logSumExp[e])),
      );
      for (let j = 0; j < adapters; j++) {
        const sums = [p[0], p[j + 1]].map((row) => {
          const massOf = (isWanted: (start: number) => boolean) =>
            sample.ranges
              .filter(([start]) => isWanted(start))
              .flatMap(([start, end]) => [...row.subarray(start, end)])
              .reduce((a, b) => a + b, 0);
          return [row[targetId], massOf((start) => start === 0), massOf((start) => start > 0)];
        });
        const delta = plain.scores![(j + 1) * V + targetId] - plain.scores![targetId];
        sums[1][0] /= Math.exp(delta);
        const [base, adapted] = sums;
        const probability = base[0];
        const expected = estimatedProbability(targetId, sample, { probability, base, adapted, delta });
        ofDefinition = Math.max(ofDefinition, Math.abs(Math.log(targets[x * J + j] / expected)));
        ofAll = Math.max(ofAll, Math.abs(Math.log(targets[x * J + j] / p[j + 1][targetId])));
      }
    }
    expect(ofDefinition).toBeLessThan(tolerance);
    expect(ofAll).toBeLessThan(0.1);
    expect(ofAll, "no token is left out").toBeGreaterThan(tolerance);
  });

  test("it is the same bits alone, among others, beside rows of any kind, with fewer adapters fed and on one thread", async () => {
    const rows = someRows();
    const single = await createStepRunner({ config, weights, bank, threads: 1, format });
    const together = await targetsOf(runner, rows);
    const besides: Row[][] = [
      [],
      [{ ...rowOf(7, 2), isKept: true }],
      [{ ...rowOf(77, 2), bias: 1 }],
      [...Array.from({ length: 16 }, (_, i) => rowOf(i, 3)), { ...rowOf(1, 1), isKept: true }],
    ];
    for (const [x, row] of rows.entries()) {
      const own = together.subarray(x * J, x * J + row.adapters);
      for (const others of besides) {
        const found = await targetsOf(runner, [...others, row]);
        expect(found.subarray(others.length * J, others.length * J + row.adapters)).toEqual(own);
      }
      expect(await targetsOf(runner, [row], row.adapters)).toEqual(own);
      expect((await targetsOf(single, [row])).subarray(0, row.adapters)).toEqual(own);
    }
    await single.release();
  });

  test("a row with a bias of its own, and one that is kept, are summed over all tokens, to the same bits beside estimates", async () => {
    const kinds = [{ isKept: true }, { bias: 2 }];
    for (const special of [...kinds, { bias: 1, isKept: true }]) {
      const row = { ...rowOf(12_345, 2), ...special };
      const alone = (await runner.run(evidenceOf([row]))).mixed!;
      const beside = (await runner.run(evidenceOf([...someRows(), row]))).mixed!;
      expect(beside.adapterTargets.subarray(-J, -1)).toEqual(alone.adapterTargets.subarray(0, J - 1));
      if (special.bias !== undefined) {
        const { adapterTargets: plain } = (await runner.run(evidenceOf([{ ...row, bias: undefined, isKept: true }])))
          .mixed!;
        const odds = (p: number) => p / (1 - p);
        expect(odds(alone.adapterTargets[0]) / odds(plain[0])).toBeCloseTo(Math.exp(special.bias), 4);
        expect(alone.adapterTargets[1]).toBe(plain[1]);
      }
      if (!row.isKept) continue;
      const { vocabularySize: V } = config;
      for (const kept of [alone.kept!, beside.kept!]) expect(kept.adapters).toHaveLength(J * V);
      expect(maxDifference(beside.kept!.adapters, alone.kept!.adapters)).toBe(0);
      expect(beside.kept!.base).toEqual(alone.kept!.base);
      expect(alone.adapterTargets[0]).toBe(alone.kept!.adapters[row.targetId]);
    }
  });
});

test.skipIf(noWebgpu)(`on WebGPU it is the CPU's, to rounding${noWebgpu ? `, skipped: ${noWebgpu}` : ""}`, async () => {
  const rows = someRows();
  const found: Float32Array[] = [];
  for (const device of ["cpu", "webgpu"] as const) {
    const runner = await createStepRunner({ config, weights, bank, threads: 1, device });
    found.push((await targetsOf(runner, rows)).map(Math.log));
    await runner.release();
  }
  const [onCpu, onGpu] = found.map((all) =>
    rows.flatMap(({ adapters }, x) => [...all.subarray(x * J, x * J + adapters)]),
  );
  const difference = maxDifference(onCpu, onGpu);
  expect(difference).toBeLessThan(1e-3);
});

test("a sequence of the engine has the same weights and tokens alone, beside others, and with its prompt in the cache", async () => {
  const runner = await createStepRunner({ config, weights, bank, threads: 2 });
  const mixture = (count: number): MixtureRequest => ({
    base: 0.5,
    adapters: Array.from({ length: count }, (_, k) => ({ centroidId: `c${k}`, weight: 0.5 / count })),
    evidence: {
      ...{ tokens: 40, temper: 0.3, floor: 0.05 },
      pointer: {
        sharpness: 15,
        sentinel: 0.005,
        shares: [
          { share: 0, prior: 0.9 },
          { share: 0.5, prior: 0.1 },
        ],
      },
    },
  });
  const prompts = Array.from({ length: 3 }, () =>
    Array.from({ length: 40 }, () => Math.floor(config.stopIds[0] * random() ** 3)),
  );
  const answers = async (harness: EngineHarness, name: string, batches: number[][]) => {
    const found = new Map<number, unknown>();
    for (const batch of batches) {
      for (const of of batch) {
        const rest = { maxTokens: 4, mixture: mixture(of + 1) };
        await harness.engine.submit(null, [sequenceRequest(`${name}-${of}`, prompts[of], rest)]);
      }
      await harness.finish();
      for (const of of batch) {
        const last = harness.lastFrameOf(`${name}-${of}`);
        found.set(of, [harness.tokensOf(`${name}-${of}`), last?.type === "done" && last.mixture]);
      }
    }
    return found;
  };
  const cached = createEngineHarness({ runner });
  const alone = await answers(cached, "alone", [[0], [1], [2]]);
  expect(alone.get(2)).toMatchObject([{ length: 4 }, { evidence: { tokens: evidencePositions } }]);
  expect(await answers(cached, "together", [[2, 0, 1]])).toEqual(alone);
  expect(await answers(createEngineHarness({ runner, prefixBytes: 0 }), "cold", [[0, 1, 2]])).toEqual(alone);
  await runner.release();
});
