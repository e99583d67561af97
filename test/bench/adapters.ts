/**
 * What the delta costs: a decode step of a full batch whose rows wear the gates of ever more centroids, beside the same
 * step on a graph without a bank. Both run in turn in one process, so that both see the same machine.
 */
import type { WeightFormat } from "../../gpu-backend/runtime/gpt2-graph.ts";
import { createStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import { seededRandom } from "../support/steps.ts";
import { Batch } from "./chameleon.ts";
import { median } from "./median.ts";
import { gpt2Bank, gpt2Config, gpt2Weights, promptsOf } from "./model.ts";

const batchRows = 32;
const promptTokens = 128;
/** Centroids in flight; 0 stands for zero gates, the base. */
const centroidCounts = [0, 1, 8, 64, 1000];

export interface AdapterRow {
  format: WeightFormat;
  centroids: number;
  msPerStep: number;
  /** The same step without a bank in the graph. */
  msPerStepWithoutBank: number;
  /** Median over the rounds of the pair's ratio − 1. */
  cost: number;
}

export async function measureAdapters(format: WeightFormat, threads: number, rounds: number): Promise<AdapterRow[]> {
  const weights = await gpt2Weights();
  const bank = gpt2Bank();
  const Q = bank.gates;
  const noBank = { gates: 0, a: new Float32Array(0), a0: new Float32Array(0), b: new Float32Array(0) };
  const [adapted, plain] = [
    await createStepRunner({ config: gpt2Config, weights, bank, threads, format }),
    await createStepRunner({ config: gpt2Config, weights, bank: noBank, threads, format }),
  ];
  const random = seededRandom(5);
  const all = Array.from({ length: Math.max(...centroidCounts) }, () =>
    Float32Array.from({ length: Q }, () => random()),
  );
  const zero = new Float32Array(Q);
  const noGates = Array.from({ length: batchRows }, () => new Float32Array(0));
  const prompts = promptsOf(batchRows, promptTokens);
  const batch = new Batch(adapted, batchRows);
  const plainBatch = new Batch(plain, batchRows);
  await batch.prefill(prompts, Array(batchRows).fill(zero));
  await plainBatch.prefill(prompts, noGates);

  const spans = new Map(centroidCounts.map((count) => [count, [] as { ms: number; plainMs: number }[]]));
  let next = 0;
  for (let round = 0; round < rounds; round++) {
    for (const count of round % 2 === 0 ? centroidCounts : centroidCounts.toReversed()) {
      // Rows take the centroids in turn, so that over a few steps every one of them is in flight.
      const gates = Array.from({ length: batchRows }, () => (count === 0 ? zero : all[next++ % count]));
      const runs = {
        ms: () => timed(() => batch.decode(gates)),
        plainMs: () => timed(() => plainBatch.decode(noGates)),
      };
      const plainFirst = round % 4 < 2;
      const early = plainFirst ? await runs.plainMs() : await runs.ms();
      const late = plainFirst ? await runs.ms() : await runs.plainMs();
      spans.get(count)!.push(plainFirst ? { plainMs: early, ms: late } : { ms: early, plainMs: late });
    }
  }
  await adapted.release();
  await plain.release();
  return centroidCounts.map((centroids) => {
    const pairs = spans.get(centroids)!;
    return {
      format,
      centroids,
      msPerStep: median(pairs.map(({ ms }) => ms)),
      msPerStepWithoutBank: median(pairs.map(({ plainMs }) => plainMs)),
      cost: median(pairs.map(({ ms, plainMs }) => ms / plainMs)) - 1,
    };
  });
}

export function adapterLine({ format, centroids, msPerStep, msPerStepWithoutBank, cost }: AdapterRow): string {
  const gates = centroids === 0 ? "zero gates" : `${centroids} centroids`;
  const times = `${msPerStep.toFixed(2)} ms/step, without a bank ${msPerStepWithoutBank.toFixed(2)}`;
  return `delta ${format}, batch ${batchRows}, ${gates}: ${times}: ${(100 * cost).toFixed(1)}%`;
}

async function timed(work: () => Promise<void>): Promise<number> {
  const startedMs = performance.now();
  await work();
  return performance.now() - startedMs;
}
