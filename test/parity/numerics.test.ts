import { beforeAll, expect, test } from "vitest";
import { generatedAdapters } from "../../gpu-backend/adapters/generated/generated.ts";
import { bankOf } from "../../gpu-backend/adapters/generated/hyper-network.ts";
import { type Artifacts, readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import { answerStartPrompt } from "../../gpu-backend/engine/start-prompt.ts";
import { HostRunner } from "../../gpu-backend/kv/host-runner.ts";
import { type WeightFormat, weightFormats } from "../../gpu-backend/runtime/products.ts";
import type { StepOutput, StepRunner } from "../../gpu-backend/runtime/step.ts";
import { testLimits } from "../support/engine-harness.ts";
import { smallBase } from "../support/small-base.ts";
import { createStepRunner } from "../support/step-runner.ts";

let artifacts: Artifacts;
beforeAll(async () => {
  artifacts = await readArtifacts(smallBase);
});

async function withRunner<T>(format: WeightFormat, threads: number, use: (runner: StepRunner) => Promise<T>) {
  const { model, hyperNetwork } = artifacts;
  const runner = await createStepRunner({ ...model, bank: bankOf(hyperNetwork), threads, format });
  try {
    return await use(runner);
  } finally {
    await runner.release();
  }
}

function fingerprint(steps: StepRunner, maxSequences = testLimits.maxSequences): Promise<string> {
  const { manifest, hyperNetwork, tokenizer } = artifacts;
  const limits = { ...testLimits, maxSequences, chunkTokens: 128 };
  const runner = new HostRunner(steps, { ...limits, kvBytes: 2 ** 28 });
  const parts = { runner, limits, textPieceOf: (id: number) => tokenizer.textPieceOf(id), now: () => 0 };
  return answerStartPrompt(parts, generatedAdapters(manifest, hyperNetwork), manifest.centroids[0].id);
}

test("the fingerprint is the same with any number of threads and slots, and differs between weight formats", async () => {
  const all = new Set<string>();
  for (const format of weightFormats) {
    const one = await withRunner(format, 1, fingerprint);
    expect(one).toMatch(/^[0-9a-f]{16}$/);
    expect(await withRunner(format, 2, (runner) => fingerprint(runner, 1))).toBe(one);
    all.add(one);
  }
  // Two of the formats give the same fingerprint: for a model whose weights are floats, the format `exact` computes as `fp32` does.
  expect(all.size).toBe(weightFormats.length - 1);
});

test("the fingerprint changes if the last bit of a kernel's output does", async () => {
  await withRunner("fp32", 1, async (runner) => {
    const measure = (spoil: (output: StepOutput) => Float32Array | null | undefined) =>
      fingerprint({
        ...{ config: runner.config, gates: runner.gates, classBytes: runner.classBytes },
        async run(input) {
          const output = await runner.run(input);
          const values = spoil(output);
          if (values) {
            const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
            for (let i = 0; i < bits.length; i++) bits[i] ^= 1;
          }
          return output;
        },
        release: () => runner.release(),
      });
    const whole = await fingerprint(runner);
    expect(await measure(() => null)).toBe(whole);
    const kinds: Parameters<typeof measure>[0][] = [
      ({ present }) => present,
      ({ states }) => states,
      ({ topScores }) => topScores,
      ({ targetScores }) => targetScores,
      ({ logSumExp }) => logSumExp,
    ];
    for (const spoil of kinds) expect(await measure(spoil)).not.toBe(whole);
  });
});
