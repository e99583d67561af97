/** An engine on this thread, stepped by the test. Frames are sorted by sequence. */
import type { AdapterSource } from "../../gpu-backend/adapters/adapter.ts";
import { AdapterCache } from "../../gpu-backend/adapters/generated/adapter-cache.ts";
import { Engine } from "../../gpu-backend/engine/engine.ts";
import type { EngineParts } from "../../gpu-backend/engine/engine-parts.ts";
import type { PhaseReport } from "../../gpu-backend/engine/messages.ts";
import type { PlanLimits } from "../../gpu-backend/engine/plan.ts";
import { HostRunner } from "../../gpu-backend/kv/host-runner.ts";
import { PrefixCache } from "../../gpu-backend/kv/prefix-cache.ts";
import type { Runner } from "../../gpu-backend/kv/runner.ts";
import type { StepRunner } from "../../gpu-backend/runtime/step.ts";
import type { Frame, SequenceRequest, TokenFrame } from "../../shared/contracts/inference.ts";
import type { SamplingChanges } from "../../shared/contracts/sampling.ts";
import type { ServiceError } from "../../shared/errors.ts";
import { sequenceRequest as sampledRequest } from "./frames.ts";

export const testLimits: PlanLimits = { maxSequences: 40, maxQueue: 500, stepTokens: 256, chunkTokens: 64 };

export interface EngineHarness {
  engine: Engine;
  adapters: AdapterCache;
  reports: PhaseReport[];
  framesOf(id: string): Frame[];
  tokenFramesOf(id: string): TokenFrame[];
  tokensOf(id: string): number[];
  lastFrameOf(id: string): Frame | undefined;
  finish(): Promise<void>;
  /** Submits batches one after another, then calls `finish`. */
  run(...batches: readonly Batch[]): Promise<EngineHarness>;
}

/** Requests that are submitted together. `adapterId` null: the base. */
export type Batch = [adapterId: string | null, ...requests: SequenceRequest[]];

export function createEngineHarness(options: {
  /** A step runner has its keys and values in the host's memory. Any other runner keeps its own. */
  runner: StepRunner | Runner;
  source?: AdapterSource;
  limits?: Partial<PlanLimits>;
  /** Bytes of a token's text. By default a letter for every id, and nothing for stop ids. */
  textPieceOf?: (id: number) => Uint8Array;
  memories?: EngineParts["memories"];
  grammars?: EngineParts["grammars"];
  kvBytes?: number;
  /** 0: no prefix cache. */
  prefixBytes?: number;
  faulted?: (error: ServiceError) => void;
  progressed?: () => void;
  queued?: () => void;
}): EngineHarness {
  const frames = new Map<string, Frame[]>();
  const reports: PhaseReport[] = [];
  let clock = 0;
  const now = () => clock++;
  const { stopIds } = options.runner.config;
  const source = options.source ?? fakeAdapters(options.runner.gates);
  const { prefixBytes = 2 ** 28, kvBytes = 2 ** 30 } = options;
  const adapters = new AdapterCache(source, now);
  const limits = { ...testLimits, ...options.limits };
  const engine = new Engine({
    runner: "kv" in options.runner ? options.runner : new HostRunner(options.runner, { ...limits, kvBytes }),
    adapters,
    memories: options.memories,
    grammars: options.grammars,
    prefixCache: prefixBytes > 0 ? new PrefixCache(prefixBytes) : null,
    limits,
    textPieceOf:
      options.textPieceOf ?? ((id) => (stopIds.includes(id) ? new Uint8Array(0) : Uint8Array.of(97 + (id % 26)))),
    now,
    faulted: (error) => options.faulted?.(error),
    progressed: () => options.progressed?.(),
    queued: () => options.queued?.(),
    emit(batch, report) {
      for (const frame of batch) {
        const own = frames.get(frame.id);
        if (own) own.push(frame);
        else frames.set(frame.id, [frame]);
      }
      if (report) reports.push(report);
    },
  });
  const framesOf = (id: string) => frames.get(id) ?? [];
  const tokenFramesOf = (id: string) => framesOf(id).filter((frame) => frame.type === "token");
  const harness: EngineHarness = {
    engine,
    adapters,
    reports,
    framesOf,
    tokenFramesOf,
    tokensOf: (id) => tokenFramesOf(id).map((frame) => frame.tokenId),
    lastFrameOf: (id) => framesOf(id).at(-1),
    async finish() {
      while (engine.busy) await engine.step();
    },
    async run(...batches) {
      for (const [adapterId, ...requests] of batches) await engine.submit(adapterId, requests);
      await harness.finish();
      return harness;
    },
  };
  return harness;
}

/** Adapters of centroids `c0`, `c1`, … with different gates, and of `off`, whose scale is 0. */
function fakeAdapters(gates: number): AdapterSource {
  const isKnown = (centroidId: string) => /^(c\d+|off)$/.test(centroidId);
  return {
    hashOf: (centroidId) => (isKnown(centroidId) ? `hash-${centroidId}` : null),
    async generate(centroidId) {
      const scale = centroidId === "off" ? 0 : 1;
      const phase = Number(centroidId.slice(1)) || 0;
      const values = Float32Array.from({ length: gates }, (_, q) => scale * Math.cos(phase + q + 1));
      return { hash: `hash-${centroidId}`, gates: values, changes: [], scale, bytes: 100 };
    },
  };
}

/** A greedy request, with overrides. */
export function sequenceRequest(
  id: string,
  promptIds: number[],
  rest: Partial<Omit<SequenceRequest, "sampling">> & { sampling?: SamplingChanges } = {},
): SequenceRequest {
  const sampling = { temperature: 0, ...rest.sampling };
  return { ...sampledRequest(id), tenant: "tenant", promptIds, maxTokens: 16, ...rest, sampling };
}
