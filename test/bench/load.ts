/**
 * A mixed open-loop load on our engine: requests arrive at random times whether or not earlier ones are done, with lengths
 * as in the conversation trace that Microsoft published of Azure's service in 2023 (prompts p50 1,020, outputs p50 129, p99 601
 * tokens), cut to the context. Run with few and with many centroids, to see whether many cost anything. Not here: HTTP and the
 * edge.
 */
import type { Adapter, AdapterSource } from "../../gpu-backend/adapters/adapter.ts";
import { AdapterCache } from "../../gpu-backend/adapters/adapter-cache.ts";
import { gatesOf, type HyperNetwork } from "../../gpu-backend/adapters/hyper-network.ts";
import { chunkTokens } from "../../gpu-backend/config.ts";
import { Engine } from "../../gpu-backend/engine/engine.ts";
import type { WeightFormat } from "../../gpu-backend/runtime/gpt2-graph.ts";
import { createStepRunner } from "../../gpu-backend/runtime/onnx-runner.ts";
import type { StepRunner } from "../../gpu-backend/runtime/step.ts";
import { sequenceRequest } from "../support/engine-harness.ts";
import { seededRandom } from "../support/steps.ts";
import { gpt2Bank, gpt2Config, gpt2Weights } from "./model.ts";

const centroidCounts = [8, 1000];
/** The server's defaults. */
const limits = { maxSequences: 32, maxQueue: 256, stepTokens: 256, chunkTokens };
/** Log-normal lengths: the median, and the spread of the logarithm (outputs: p99 ÷ p50 = 601 ÷ 129). */
const promptLength = { median: 1020, spread: 0.7 };
const outputLength = { median: 129, spread: Math.log(601 / 129) / 2.326 };
/** Room that a prompt leaves for its output where it would fill the context. */
const leastOutput = 129;

interface Arrival {
  id: string;
  dueMs: number;
  promptIds: number[];
  maxTokens: number;
}

export interface LoadRow {
  format: WeightFormat;
  centroids: number;
  requestsPerSecond: number;
  requests: number;
  /** Requests that ended in an error, such as a full queue. */
  failed: number;
  tokensPerSecond: number;
  /** From the time a request was due to its first token. */
  timeToFirstTokenMs: Percentiles;
  /** Between two tokens of one request. */
  betweenTokensMs: Percentiles;
}

interface Percentiles {
  p50: number;
  p99: number;
}

export async function measureLoad(
  format: WeightFormat,
  options: { threads: number; requestsPerSecond: number; requests: number },
): Promise<LoadRow[]> {
  const { threads, requestsPerSecond, requests } = options;
  const weights = await gpt2Weights();
  const runner = await createStepRunner({ config: gpt2Config, weights, bank: gpt2Bank(), threads, format });
  const arrivals = arrivalsOf(requestsPerSecond, requests);
  const rows: LoadRow[] = [];
  for (const centroids of centroidCounts) {
    rows.push({ format, centroids, requestsPerSecond, requests, ...(await runLoad(runner, arrivals, centroids)) });
  }
  await runner.release();
  return rows;
}

export function loadLine({ format, centroids, requestsPerSecond, requests, failed, ...row }: LoadRow): string {
  const span = ({ p50, p99 }: Percentiles) => `p50 ${p50.toFixed(0)} p99 ${p99.toFixed(0)} ms`;
  return [
    `load ${format}, ${requests} requests at ${requestsPerSecond}/s, ${centroids} centroids`,
    `first token ${span(row.timeToFirstTokenMs)}, between tokens ${span(row.betweenTokensMs)}, ${row.tokensPerSecond.toFixed(1)} tokens/s, ${failed} failed`,
  ].join(": ");
}

/** Exponential gaps, log-normal lengths; the same for every run. */
function arrivalsOf(requestsPerSecond: number, requests: number): Arrival[] {
  const random = seededRandom(2023);
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const length = ({ median, spread }: typeof promptLength) =>
    Math.max(1, Math.round(median * Math.exp(spread * normal())));
  let dueMs = 0;
  return Array.from({ length: requests }, (_, i) => {
    dueMs += (-Math.log(1 - random()) / requestsPerSecond) * 1000;
    const prompt = Math.min(length(promptLength), gpt2Config.contextTokens - leastOutput);
    const maxTokens = Math.min(length(outputLength), gpt2Config.contextTokens - prompt);
    const promptIds = Array.from({ length: prompt }, () => Math.floor(random() * gpt2Config.endOfTextId));
    return { id: `r${i}`, dueMs, promptIds, maxTokens };
  });
}

async function runLoad(runner: StepRunner, arrivals: readonly Arrival[], centroids: number) {
  const now = () => performance.now();
  const dueMs = new Map(arrivals.map((arrival) => [arrival.id, arrival.dueMs]));
  const lastTokenMs = new Map<string, number>();
  const firstSpans: number[] = [];
  const gaps: number[] = [];
  let failed = 0;
  const startedMs = now();
  const engine = new Engine({
    runner,
    adapters: new AdapterCache(generatedGates(runner.gates), 2 ** 26, now),
    prefixCache: null,
    limits,
    kvBytes: 2 ** 31,
    pieceOf: () => Uint8Array.of(97),
    now,
    emit(frames) {
      const atMs = now() - startedMs;
      for (const { type, id } of frames) {
        if (type === "error") failed++;
        if (type !== "token") continue;
        const previousMs = lastTokenMs.get(id);
        if (previousMs === undefined) firstSpans.push(atMs - dueMs.get(id)!);
        else gaps.push(atMs - previousMs);
        lastTokenMs.set(id, atMs);
      }
    },
  });
  let next = 0;
  while (next < arrivals.length || engine.busy) {
    for (; next < arrivals.length && arrivals[next].dueMs <= now() - startedMs; next++) {
      const { id, promptIds, maxTokens } = arrivals[next];
      await engine.submit(`c${next % centroids}`, [sequenceRequest(id, promptIds, { maxTokens })]);
    }
    if (engine.busy) await engine.step();
    else if (next < arrivals.length) await sleep(arrivals[next].dueMs - (now() - startedMs));
  }
  const seconds = (now() - startedMs) / 1000;
  return {
    failed,
    tokensPerSecond: (firstSpans.length + gaps.length) / seconds,
    timeToFirstTokenMs: percentiles(firstSpans),
    betweenTokensMs: percentiles(gaps),
  };
}

/** Adapters as the gated hyper-network makes them, of random centroids `c0`, `c1`, … */
function generatedGates(gates: number): AdapterSource {
  const random = seededRandom(6);
  const [P, H] = [64, 32];
  const floats = (length: number) => Float32Array.from({ length }, () => random() - 0.5);
  const network: HyperNetwork = {
    dimensions: P,
    hidden: H,
    gates,
    w1: floats(H * P),
    b1: floats(H),
    w2: floats(gates * H),
    b2: floats(gates),
  };
  return {
    hashOf: (centroidId) => centroidId,
    async generate(centroidId): Promise<Adapter> {
      const values = gatesOf(network, floats(P), 1);
      return { hash: centroidId, gates: values, directions: null, bias: null, scale: 1, bytes: values.byteLength };
    },
  };
}

function percentiles(values: number[]): Percentiles {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  return { p50: at(0.5), p99: at(0.99) };
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, Math.max(0, ms));
  });
}
