/** The numerics fingerprint of the embedded model: what changes bits changes it, and nothing else does. */
import { fileURLToPath } from "node:url";
import { beforeAll, expect, test } from "vitest";
import { bankOf } from "../../gpu-backend/adapters/hyper-network.ts";
import { type Artifacts, readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import { type WeightFormat, weightFormats } from "../../gpu-backend/runtime/gpt2-graph.ts";
import { measureNumerics } from "../../gpu-backend/runtime/numerics.ts";
import { createStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import type { StepRunner } from "../../gpu-backend/runtime/step.ts";
import { idPattern } from "../../shared/contracts/inference.ts";
import { noPast, stepOf } from "../support/steps.ts";

const modelFolder = fileURLToPath(new URL("../../gpu-backend/models/chameleon-mini", import.meta.url));
let artifacts: Artifacts;
beforeAll(async () => {
  artifacts = await readArtifacts(modelFolder);
});

interface Served {
  format?: WeightFormat;
  threads?: number;
}

async function withRunner<T>({ format = "fp32", threads = 1 }: Served, use: (runner: StepRunner) => Promise<T>) {
  const { model, hyperNetwork } = artifacts;
  const bank = bankOf(hyperNetwork);
  const runner = await createStepRunner({ ...model, bank, threads, format });
  try {
    return await use(runner);
  } finally {
    await runner.release();
  }
}

const fingerprint = (served: Served) =>
  withRunner(served, (runner) => measureNumerics(runner, { device: "cpu", format: served.format ?? "fp32" }));

test("is the same however many threads compute, and another for each weight format", async () => {
  const all = new Set<string>();
  for (const format of weightFormats) {
    const one = await fingerprint({ format });
    expect(one).toMatch(new RegExp(`^cpu-${format}-[0-9a-f]{16}$`));
    expect(one).toMatch(idPattern);
    expect(await fingerprint({ format, threads: 2 })).toBe(one);
    all.add(one.slice(-16));
  }
  expect(all.size).toBe(weightFormats.length);
});

test("is another where one output of one kernel differs in its last bit", async () => {
  const whole = await fingerprint({});
  await withRunner({}, async (runner) => {
    const kinds = ["present", "scores", "mixed", "evidence"] as const;
    const measure = (spoil: (name: (typeof kinds)[number], values: Float32Array) => void) =>
      measureNumerics(
        {
          ...{ config: runner.config, gates: runner.gates },
          ...{ classBytes: runner.classBytes, passBytes: runner.passBytes },
          async run(input) {
            const output = await runner.run(input);
            spoil("present", output.present);
            if (output.scores) spoil("scores", output.scores);
            if (output.mixed?.rows) spoil("mixed", output.mixed.rows.scores!);
            if (output.mixed && !output.mixed.rows) spoil("evidence", output.mixed.adapterTargets);
            return output;
          },
          mix: (input) => runner.mix(input),
          release: () => runner.release(),
        },
        { device: "cpu", format: "fp32" },
      );
    expect(await measure(() => {})).toBe(whole);
    for (const spoilt of kinds) {
      const flipped = await measure((name, values) => {
        if (name === spoilt && values.length > 0)
          new Uint32Array(values.buffer, values.byteOffset)[values.length - 1] ^= 1;
      });
      expect(flipped).not.toBe(whole);
    }
  });
});

test("is measured again to the same, and leaves no trace in what is computed after it", async () => {
  await withRunner({ format: "int8" }, async (runner) => {
    const gates = Float32Array.from({ length: runner.gates }, (_, q) => Math.cos(q));
    const row = { tokenIds: [11, 12, 13], gates, ...noPast(runner.config) };
    const before = (await runner.run(stepOf(runner.config, [row]))).scores;
    const measure = () => measureNumerics(runner, { device: "cpu", format: "int8" });
    expect(await measure()).toBe(await measure());
    expect((await runner.run(stepOf(runner.config, [row]))).scores).toEqual(before);
  });
});
