/**
 * What a mixture costs beside the nearest adapter alone: decode steps, and the first token of a prompt, in the real engine.
 * The weights are pinned (evidence that counts nothing leaves the priors), so that every row has the experts it is said to
 * have. Both kinds run in turn on one engine.
 */
import { AdapterCache } from "../../gpu-backend/adapters/generated/adapter-cache.ts";
import { chunkTokens } from "../../gpu-backend/config.ts";
import { Engine } from "../../gpu-backend/engine/engine.ts";
import type { PhaseReport } from "../../gpu-backend/engine/messages.ts";
import { HostRunner } from "../../gpu-backend/kv/host-runner.ts";
import { createStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import type { WeightFormat } from "../../gpu-backend/runtime/products.ts";
import type { MixtureRequest } from "../../shared/contracts/inference.ts";
import { fakeAdapters, sequenceRequest } from "../support/engine-harness.ts";
import { seededRandom } from "../support/steps.ts";
import { gpt2Bank, gpt2Config, gpt2Weights } from "./model.ts";
import { median } from "./quantile.ts";

const limits = { maxSequences: 32, maxQueue: 256, stepTokens: 256, chunkTokens };
const promptTokens = 128;

export interface MixtureRow {
  format: WeightFormat;
  batch: number;
  /** Adapters beside the base. */
  adapters: number;
  decodeMs: number;
  decodeMsNearest: number;
  /** Median over the rounds of the pair's ratio − 1. */
  decodeCost: number;
  prefillMs: number;
  prefillMsNearest: number;
  prefillCost: number;
}

export async function measureMixture(
  format: WeightFormat,
  batch: number,
  options: { threads: number; rounds: number; steps: number },
): Promise<MixtureRow[]> {
  const { threads, rounds, steps } = options;
  const weights = await gpt2Weights();
  const runner = await createStepRunner({ config: gpt2Config, weights, bank: gpt2Bank(), threads, format });
  const now = () => performance.now();
  let reports: PhaseReport[] = [];
  const engine = new Engine({
    runner: new HostRunner(runner, { ...limits, kvBytes: 2 ** 31 }),
    adapters: new AdapterCache(fakeAdapters(runner.gates), now),
    prefixCache: null,
    limits,
    textPieceOf: () => Uint8Array.of(97),
    now,
    emit(frames, report) {
      for (const frame of frames) if (frame.type === "error") throw new Error(frame.message);
      if (report) reports.push(report);
    },
  });
  const random = seededRandom(12);
  const draw = () => Array.from({ length: promptTokens }, () => Math.floor(random() * gpt2Config.stopIds[0]));
  // The first rows decode while the last are prefilled; only steps of all rows are looked at.
  const prefillSteps = Math.ceil((batch * promptTokens) / limits.stepTokens);
  let runs = 0;
  /** Medians of a batch's decode steps, and all of its prefill for a prompt. */
  const run = async (mixture: MixtureRequest | undefined) => {
    reports = [];
    const sampling = { logit_bias: [[gpt2Config.stopIds[0], -100]] as [number, number][] };
    const requests = Array.from({ length: batch }, (_, i) =>
      sequenceRequest(`r${runs}_${i}`, draw(), { maxTokens: steps + prefillSteps, mixture, sampling }),
    );
    runs++;
    await engine.submit("c0", requests);
    while (engine.busy) await engine.step();
    const ofAll = reports.filter(({ phase, sequences }) => phase === "decode" && sequences === batch);
    const prefills = reports.filter(({ phase }) => phase === "prefill");
    return {
      decodeMs: median(ofAll.map(({ ms }) => ms)),
      prefillMs: prefills.reduce((sum, { ms }) => sum + ms, 0) / batch,
    };
  };

  const counts = [0, 1, 3];
  const pairs = counts.map(
    () => [] as { mixture: Awaited<ReturnType<typeof run>>; nearest: Awaited<ReturnType<typeof run>> }[],
  );
  await run(undefined);
  for (let round = 0; round < rounds; round++) {
    for (const [i, count] of counts.entries()) {
      const [one, other] =
        round % 2 === 0
          ? [await run(pinned(count)), await run(undefined)]
          : [await run(undefined), await run(pinned(count))].toReversed();
      pairs[i].push({ mixture: one, nearest: other });
    }
  }
  await runner.release();
  return counts.map((adapters, i) => {
    const of = (key: "decodeMs" | "prefillMs") => ({
      ms: median(pairs[i].map(({ mixture }) => mixture[key])),
      nearest: median(pairs[i].map(({ nearest }) => nearest[key])),
      cost: median(pairs[i].map(({ mixture, nearest }) => mixture[key] / nearest[key])) - 1,
    });
    const [decode, prefill] = [of("decodeMs"), of("prefillMs")];
    return {
      ...{ format, batch, adapters },
      ...{ decodeMs: decode.ms, decodeMsNearest: decode.nearest, decodeCost: decode.cost },
      ...{ prefillMs: prefill.ms, prefillMsNearest: prefill.nearest, prefillCost: prefill.cost },
    };
  });
}

/** The base and `count` adapters, at weights that the prompt cannot change. */
function pinned(count: number): MixtureRequest {
  return {
    base: 1 / (count + 1),
    adapters: Array.from({ length: count }, (_, i) => ({ centroidId: `c${i}`, weight: 1 / (count + 1) })),
    evidence: { tokens: promptTokens, temper: 0, floor: 0.05 },
  };
}

export function mixtureLine(row: MixtureRow): string {
  const percent = (cost: number) => `${cost < 0 ? "" : "+"}${(100 * cost).toFixed(1)}%`;
  const what = `mixture ${row.format}, batch ${row.batch}, base, ${row.adapters} adapters`;
  const decode = `${row.decodeMs.toFixed(2)} ms/step, nearest ${row.decodeMsNearest.toFixed(2)}: ${percent(row.decodeCost)}`;
  const first = `first token ${row.prefillMs.toFixed(1)} ms, nearest ${row.prefillMsNearest.toFixed(1)}: ${percent(row.prefillCost)}`;
  return `${what}: ${decode}; ${first}`;
}
