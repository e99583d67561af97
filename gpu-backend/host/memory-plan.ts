/**
 * How much memory the backend may take, and how much of it keys and values get where KV_BYTES is not set. Pure arithmetic
 * over estimates of what a model takes; the bounds of keys, values and caches are exact.
 */
import { arenaShapeOf, bytesPerPosition } from "../kv/kv-budget.ts";
import type { WeightFormat } from "../runtime/gpt2-graph.ts";
import { parametersOf } from "../runtime/model-folder.ts";
import type { Gpt2Config } from "../runtime/step.ts";

/**
 * Bytes for each parameter: of an open session with its working memory, and at the peak of loading it, when the model file, the
 * graph and the session are there together. Measured with GPT-2 124M (`npm run bench -- --memory`), rounded up.
 */
const bytesPerParameter: Record<WeightFormat, { session: number; loading: number }> = {
  fp32: { session: 8.5, loading: 16.5 },
  int8: { session: 4, loading: 13 },
  block8: { session: 4, loading: 14 },
  block4: { session: 3, loading: 11 },
};
/** The same of a fitter, which reads the model file and opens a session over the head in fp32; it ends when it is idle. */
const fitterBytesPerParameter = 10;
/** Node, the code and its heap, of each process: HTTP, an engine for each set, one fitter (each set may start its own). */
const processBytes = 120e6;
/**
 * Of the memory left after all else, what keys and values get. The rest is for results that wait to be collected, for copies of rows
 * that are parked, resume or change their length class in a step, and for one array more while unused memory is given back.
 */
const kvShare = 0.8;

export interface MemorySettings {
  /** What the backend's processes may take together: the container's limit or the machine's memory. */
  limitBytes: number;
  model: Gpt2Config;
  weightFormat: WeightFormat;
  /** Sets of artifacts side by side, at most. */
  sets: number;
  maxSequences: number;
  /** null: as much as is left. */
  kvBytes: number | null;
  prefixCacheBytes: number;
  adapterCacheBytes: number;
}

export interface MemoryPlan {
  limitBytes: number;
  /** Bound on keys and values of one set. */
  kvBytes: number;
  /** What may be taken at the same time, over all sets. */
  parts: {
    processes: number;
    sessions: number;
    /**
     * What loading one more set takes beyond what it takes once loaded, or what a fitter takes, whichever is larger. The plan
     * assumes one of these at a time; nothing enforces it.
     */
    loading: number;
    kv: number;
    prefix_caches: number;
    adapter_caches: number;
  };
  /** The sum of the parts. */
  plannedBytes: number;
}

/** Keys and values get at least one sequence as long as the context, even where that exceeds the limit. */
export function planMemory(settings: MemorySettings): MemoryPlan {
  const { limitBytes, model, weightFormat, sets, maxSequences, prefixCacheBytes, adapterCacheBytes } = settings;
  const parameters = parametersOf(model);
  const { session, loading } = bytesPerParameter[weightFormat];
  const taken = {
    processes: (sets + 2) * processBytes,
    sessions: sets * session * parameters,
    loading: Math.max(loading - session, fitterBytesPerParameter) * parameters,
    prefix_caches: sets * prefixCacheBytes,
    adapter_caches: sets * adapterCacheBytes,
  };
  const left = limitBytes - sum(taken);
  const contextBytes = model.contextTokens * bytesPerPosition(arenaShapeOf(model));
  const most = maxSequences * contextBytes;
  const kvBytes = settings.kvBytes ?? Math.floor(Math.max(contextBytes, Math.min(most, (kvShare * left) / sets)));
  const parts = { ...taken, kv: sets * kvBytes };
  return { limitBytes, kvBytes, parts, plannedBytes: sum(parts) };
}

/** The memory limit of this process. `constrained` is of its control group: 0 where there is none, or beyond all memory. */
export function memoryLimit(constrained: number, total: number): number {
  return constrained > 0 ? Math.min(constrained, total) : total;
}

export function memorySentence({ limitBytes, parts, plannedBytes }: MemoryPlan): string {
  const named = Object.entries(parts).map(([name, bytes]) => `${name.replace("_", " ")} ${megabytes(bytes)}`);
  const verdict = plannedBytes > limitBytes ? "which is more than the limit" : "within the limit";
  return `Up to ${megabytes(plannedBytes)} may be taken (${named.join(", ")}), ${verdict} of ${megabytes(limitBytes)}.`;
}

function sum(parts: Record<string, number>): number {
  return Object.values(parts).reduce((total, bytes) => total + bytes, 0);
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 1e6)} MB`;
}
