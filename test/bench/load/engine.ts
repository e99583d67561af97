/**
 * The engine under a load: requests arrive when they are due, whether or not earlier ones are done. The engine's code may come from another
 * checkout's folder. HTTP and the edge are left out.
 */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import type { Adapter, AdapterSource } from "../../../gpu-backend/adapters/adapter.ts";
import { gatesOf, type HyperNetwork } from "../../../gpu-backend/adapters/generated/hyper-network.ts";
import type { WeightFormat } from "../../../gpu-backend/runtime/products.ts";
import type { Frame } from "../../../shared/contracts/inference.ts";
import { sequenceRequest } from "../../support/engine-harness.ts";
import { randomWeights } from "../../support/random-weights.ts";
import { randomBank, seededRandom } from "../../support/steps.ts";
import { gpt2Config } from "../model.ts";
import type { Arrival } from "./trace.ts";

export interface LoadOptions {
  folder: string;
  format: WeightFormat;
  threads: number;
}

export interface LoadResult {
  seconds: number;
  tokens: number;
  failed: number;
  /** For each request, milliseconds from its due time to its first token. */
  firstTokenMs: number[];
  betweenTokensMs: number[];
}

const kvBytes = 2 ** 31;

export async function openLoadEngine({ folder, format, threads }: LoadOptions) {
  const from = (path: string) => import(pathToFileURL(join(folder, "gpu-backend", path)).href);
  const { buildServingGraph }: typeof import("../../../gpu-backend/runtime/model-graph.ts") =
    await from("runtime/model-graph.ts");
  const { openStepRunner }: typeof import("../../../gpu-backend/runtime/onnx-runner.ts") =
    await from("runtime/onnx-runner.ts");
  const { Engine }: typeof import("../../../gpu-backend/engine/engine.ts") = await from("engine/engine.ts");
  const { AdapterCache }: typeof import("../../../gpu-backend/adapters/generated/adapter-cache.ts") = await from(
    "adapters/generated/adapter-cache.ts",
  );
  const { HostRunner }: typeof import("../../../gpu-backend/kv/host-runner.ts") = await from("kv/host-runner.ts");
  const { chunkTokens }: typeof import("../../../gpu-backend/config.ts") = await from("config.ts");
  const weights = randomWeights(gpt2Config, seededRandom(124));
  const bank = randomBank(gpt2Config, 64, 8, seededRandom(8));
  const graph = buildServingGraph(gpt2Config, weights, bank, { format });
  const runner = await openStepRunner(graph, { config: gpt2Config, bank, threads });
  const limits = { maxSequences: 32, maxQueue: 256, stepTokens: 256, chunkTokens };
  const now = () => performance.now();
  let heard: (frames: readonly Frame[]) => void = () => {};
  const engine = new Engine({
    runner: new HostRunner(runner, { ...limits, kvBytes }),
    adapters: new AdapterCache(generatedGates(runner.gates), now),
    prefixCache: null,
    limits,
    textPieceOf: () => Uint8Array.of(97),
    now,
    emit: (frames) => heard(frames),
  });
  return {
    async run(arrivals: readonly Arrival[], centroids: number): Promise<LoadResult> {
      const dueMs = new Map(arrivals.map((arrival) => [arrival.id, arrival.dueMs]));
      const lastTokenMs = new Map<string, number>();
      const result: LoadResult = { seconds: 0, tokens: 0, failed: 0, firstTokenMs: [], betweenTokensMs: [] };
      const startedMs = now();
      heard = (frames) => {
        const atMs = now() - startedMs;
        for (const { type, id } of frames) {
          if (type === "error") result.failed++;
          if (type !== "token") continue;
          const previousMs = lastTokenMs.get(id);
          if (previousMs === undefined) result.firstTokenMs.push(atMs - dueMs.get(id)!);
          else result.betweenTokensMs.push(atMs - previousMs);
          lastTokenMs.set(id, atMs);
          result.tokens++;
        }
      };
      let next = 0;
      while (next < arrivals.length || engine.busy) {
        for (; next < arrivals.length && arrivals[next].dueMs <= now() - startedMs; next++) {
          const { id, promptIds, maxTokens } = arrivals[next];
          const request = sequenceRequest(id, promptIds, { maxTokens, sampling: { ignore_eos: true } });
          await engine.submit(`c${next % centroids}`, [request]);
        }
        if (engine.busy) await engine.step();
        else if (next < arrivals.length) await sleep(arrivals[next].dueMs - (now() - startedMs));
      }
      result.seconds = (now() - startedMs) / 1000;
      return result;
    },
  };
}

/** Adapters as the hyper-network makes them, for random centroids `c0`, `c1`, … */
function generatedGates(gates: number): AdapterSource {
  const random = seededRandom(6);
  const [P, H] = [64, 32];
  const floats = (length: number) => Float32Array.from({ length }, () => random() - 0.5);
  const weights = { w1: floats(H * P), b1: floats(H), w2: floats(gates * H), b2: floats(gates) };
  const network: HyperNetwork = { dimensions: P, hidden: H, gates, ...weights, staticGates: new Float32Array(gates) };
  return {
    hashOf: (centroidId) => centroidId,
    async generate(centroidId): Promise<Adapter> {
      const values = gatesOf(network, floats(P), 1);
      return { hash: centroidId, gates: values, changes: [], scale: 1, bytes: values.byteLength };
    },
  };
}
