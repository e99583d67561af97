/**
 * The cost of the delta: a decode step of a batch of 32 rows with the gates of ever more centroids, beside the same step on a
 * graph without a bank. All run in turn in one process, so that they see the same machine.
 */

import { createStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import type { WeightFormat } from "../../gpu-backend/runtime/products.ts";
import type { Bank, StepRunner } from "../../gpu-backend/runtime/step.ts";
import { seededRandom } from "../support/steps.ts";
import { Batch } from "./chameleon.ts";
import { gpt2Bank, gpt2Config, gpt2Weights, promptsOf } from "./model.ts";
import { median } from "./quantile.ts";

const batchRows = 32;
const promptTokens = 128;
/** Centroids in one batch; 0 stands for zero gates, the base. */
const centroidCounts = [0, 1, 8, 64, 1000];

export interface AdapterRow {
  format: WeightFormat;
  centroids: number;
  msPerStep: number;
  /** The same step without a bank in the graph. */
  msPerStepWithout: number;
  /** Median over the rounds of the pair's ratio − 1. */
  cost: number;
}

/** At most 20 rounds: then no batch outgrows the KV size that all of them start in. */
export async function measureAdapters(format: WeightFormat, threads: number, rounds: number): Promise<AdapterRow[]> {
  const random = seededRandom(5);
  const weights = await gpt2Weights();
  const open = (bank: Bank) => createStepRunner({ config: gpt2Config, weights, bank, threads, format });
  const noBank = { gates: 0, a: new Float32Array(0), a0: new Float32Array(0), b: new Float32Array(0) };
  const plain = await openBatch(await open(noBank));
  const gated = await openBatch(await open(gpt2Bank()));

  const table = Array.from({ length: Math.max(...centroidCounts) }, () =>
    Float32Array.from({ length: gated.runner.gates }, () => random()),
  );
  let next = 0;
  // Rows take the centroids in turn, so that over a few steps every one of them is in flight.
  const gatesOf = (count: number) => gated.zeroGates.map((zero) => (count === 0 ? zero : table[next++ % count]));
  const cases = centroidCounts.map((centroids) => ({
    centroids,
    step: () => gated.batch.decode(gatesOf(centroids)),
    spans: [] as { ms: number; withoutMs: number }[],
  }));

  const without = () => timed(() => plain.batch.decode(plain.zeroGates));
  for (let round = 0; round < rounds; round++) {
    for (const { step, spans } of round % 2 === 0 ? cases : cases.toReversed()) {
      if (round % 4 < 2) {
        const withoutMs = await without();
        spans.push({ withoutMs, ms: await timed(step) });
      } else {
        const ms = await timed(step);
        spans.push({ ms, withoutMs: await without() });
      }
    }
  }
  for (const { runner } of [plain, gated]) await runner.release();
  return cases.map(({ centroids, spans }) => ({
    format,
    centroids,
    msPerStep: median(spans.map(({ ms }) => ms)),
    msPerStepWithout: median(spans.map(({ withoutMs }) => withoutMs)),
    cost: median(spans.map(({ ms, withoutMs }) => ms / withoutMs)) - 1,
  }));
}

export function adapterLine({ format, centroids, msPerStep, msPerStepWithout, cost }: AdapterRow): string {
  const adapters = centroids === 0 ? "zero gates" : `${centroids} adapters`;
  const times = `${msPerStep.toFixed(2)} ms/step, without ${msPerStepWithout.toFixed(2)}`;
  return `delta ${format}, batch ${batchRows}, ${adapters}: ${times}: ${(100 * cost).toFixed(1)}%`;
}

/** A prefilled batch on a graph. */
async function openBatch(runner: StepRunner) {
  const batch = new Batch(runner, batchRows, 2 * promptTokens);
  const zeroGates = Array.from({ length: batchRows }, () => new Float32Array(runner.gates));
  await batch.prefill(promptsOf(batchRows, promptTokens), zeroGates);
  return { runner, batch, zeroGates };
}

async function timed(work: () => Promise<void>): Promise<number> {
  const startedMs = performance.now();
  await work();
  return performance.now() - startedMs;
}
