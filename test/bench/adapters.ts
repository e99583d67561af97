/**
 * What the delta costs: a decode step of a full batch whose rows wear the gates of ever more centroids, or own directions
 * of the paper's full kind, each beside the same step on a graph without bank and pool. All run in turn in one process, so
 * that they see the same machine.
 */

import type { PoolShape } from "../../gpu-backend/runtime/adapter-graph.ts";
import type { WeightFormat } from "../../gpu-backend/runtime/gpt2-graph.ts";
import { createStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import type { Bank, StepRunner } from "../../gpu-backend/runtime/step.ts";
import { seededRandom } from "../support/steps.ts";
import { Batch } from "./chameleon.ts";
import { gpt2Bank, gpt2Config, gpt2Weights, promptsOf } from "./model.ts";
import { median } from "./quantile.ts";

const batchRows = 32;
const promptTokens = 128;
/** Centroids in flight with gated adapters; 0 stands for zero gates, the base. */
const gatedCounts = [0, 1, 8, 64, 1000];
/** The paper's rank. */
const poolShape: PoolShape = { slots: 8, rank: 4 };

export interface AdapterRow {
  format: WeightFormat;
  kind: "gated" | "full";
  centroids: number;
  msPerStep: number;
  /** The same step without bank and pool in the graph. */
  msPerStepWithout: number;
  /** Median over the rounds of the pair's ratio − 1. */
  cost: number;
}

/** At most 20 rounds: then no batch outgrows the KV size that all of them start in. */
export async function measureAdapters(format: WeightFormat, threads: number, rounds: number): Promise<AdapterRow[]> {
  const random = seededRandom(5);
  const weights = await gpt2Weights();
  const open = (bank: Bank, pool: PoolShape | null) =>
    createStepRunner({ config: gpt2Config, weights, bank, threads, format, pool });
  const noBank = { gates: 0, a: new Float32Array(0), a0: new Float32Array(0), b: new Float32Array(0) };
  const plain = await openBatch(await open(noBank, null));
  const gated = await openBatch(await open(gpt2Bank(), null));
  const full = await openBatch(await open(noBank, poolShape));
  fillPool(full.runner, random);
  full.batch.poolSlots = Int32Array.from({ length: batchRows }, (_, row) => row % poolShape.slots);

  const table = Array.from({ length: Math.max(...gatedCounts) }, () =>
    Float32Array.from({ length: gated.runner.gates }, () => random()),
  );
  let next = 0;
  // Rows take the centroids in turn, so that over a few steps every one of them is in flight.
  const gatesOf = (count: number) => gated.zeroGates.map((zero) => (count === 0 ? zero : table[next++ % count]));
  const cases = [
    ...gatedCounts.map((centroids) => ({
      kind: "gated" as const,
      centroids,
      step: () => gated.batch.decode(gatesOf(centroids)),
    })),
    { kind: "full" as const, centroids: poolShape.slots, step: () => full.batch.decode(full.zeroGates) },
  ].map((one) => ({ ...one, spans: [] as { ms: number; withoutMs: number }[] }));

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
  for (const { runner } of [plain, gated, full]) await runner.release();
  return cases.map(({ kind, centroids, spans }) => ({
    format,
    kind,
    centroids,
    msPerStep: median(spans.map(({ ms }) => ms)),
    msPerStepWithout: median(spans.map(({ withoutMs }) => withoutMs)),
    cost: median(spans.map(({ ms, withoutMs }) => ms / withoutMs)) - 1,
  }));
}

export function adapterLine({ format, kind, centroids, msPerStep, msPerStepWithout, cost }: AdapterRow): string {
  const adapters = centroids === 0 ? "zero gates" : `${centroids} ${kind} adapters`;
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

function fillPool({ pool }: StepRunner, random: () => number): void {
  const { hiddenSize: D, vocabularySize: V } = gpt2Config;
  const floats = (length: number) => Float32Array.from({ length }, () => (random() - 0.5) * 0.2);
  for (let slot = 0; slot < poolShape.slots; slot++) {
    pool?.write(slot, floats(poolShape.rank * D), floats(poolShape.rank * V));
  }
}

async function timed(work: () => Promise<void>): Promise<number> {
  const startedMs = performance.now();
  await work();
  return performance.now() - startedMs;
}
