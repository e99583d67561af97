/**
 * Estimates the memory that the backend may take, and how much of it keys and values get if KV_BYTES is not set. Pure
 * arithmetic over estimates of a model's size; the bounds of keys, values and caches are exact.
 */
import { maxCacheBytes } from "../adapters/generated/adapter-cache.ts";
import { bytesPerPosition, kvShapeOf } from "../kv/kv-budget.ts";
import type { ModelConfig } from "../runtime/model-config.ts";
import { parametersOf } from "../runtime/model-weights.ts";
import { kvFormatFor, type WeightFormat } from "../runtime/products.ts";

/**
 * Bytes for each parameter. `session`: an open session with its working memory. `loading`: the peak, when model file, graph and
 * session are all in memory. Measured with GPT-2 124M (`npm run bench -- --memory`), rounded up. `exact` is measured with SmolLM2-135M,
 * whose engine takes at most 490 MB while it starts: 2.8 bytes beside its process with 4-bit blocks, rounded up for 8-bit blocks.
 */
const bytesPerParameter: Record<WeightFormat, { session: number; loading: number }> = {
  fp32: { session: 8.5, loading: 16.5 },
  int8: { session: 4, loading: 13 },
  exact: { session: 4, loading: 5 },
};
/** The same of a fitter, which opens a session over the head in fp32 and ends when it is idle. */
const fitterBytesPerParameter = 10;
/** Node, the code and its heap, of each process: HTTP, an engine for each set, one fitter (each set may start its own). */
const processBytes = 120e6;
/** Part of the remaining memory for keys and values. The rest is for garbage, and for copies of rows and arrays within a step. */
const kvShare = 0.8;

/** Sets of artifacts side by side, at most, while one takes the place of another. */
export const maxSets = 2;

export interface MemorySettings {
  /** Limit of the backend's processes together: the container's limit or the machine's memory. */
  limitBytes: number;
  model: ModelConfig;
  weightFormat: WeightFormat;
  /** Whether the model's file has its matrices in blocks. `exact` keeps floats as they are. */
  isInBlocks: boolean;
  /** 1 where nothing is published, else `maxSets`. */
  sets: number;
  maxSequences: number;
  /** null: as much as remains. */
  kvBytes: number | null;
  prefixCacheBytes: number;
  memoryCacheBytes: number;
}

export interface MemoryPlan {
  limitBytes: number;
  /** Bound on keys and values of one set. */
  kvBytes: number;
  /** Bytes that may be used at the same time, over all sets. */
  parts: {
    processes: number;
    sessions: number;
    /** Extra memory of loading one set, or a fitter's, whichever is larger. TODO: nothing enforces that only one runs at a time. */
    loading: number;
    kv: number;
    prefix_caches: number;
    adapter_caches: number;
    memories: number;
  };
  /** The sum of the parts. */
  plannedBytes: number;
}

/** Keys and values get at least one sequence as long as the context, even where that exceeds the limit. */
export function planMemory(settings: MemorySettings): MemoryPlan {
  const { limitBytes, model, weightFormat, isInBlocks, sets, maxSequences, prefixCacheBytes, memoryCacheBytes } =
    settings;
  const parameters = parametersOf(model);
  const { session, loading } = bytesPerParameter[weightFormat === "exact" && !isInBlocks ? "fp32" : weightFormat];
  const taken = {
    processes: (sets + 2) * processBytes,
    sessions: sets * session * parameters,
    loading: Math.max(loading - session, fitterBytesPerParameter) * parameters,
    prefix_caches: sets * prefixCacheBytes,
    adapter_caches: sets * maxCacheBytes,
    memories: sets * memoryCacheBytes,
  };
  const left = limitBytes - sum(taken);
  const contextBytes = model.contextTokens * bytesPerPosition(kvShapeOf(model, kvFormatFor(weightFormat)));
  const maxBytes = maxSequences * contextBytes;
  const kvBytes = settings.kvBytes ?? Math.floor(Math.max(contextBytes, Math.min(maxBytes, (kvShare * left) / sets)));
  const parts = { ...taken, kv: sets * kvBytes };
  return { limitBytes, kvBytes, parts, plannedBytes: sum(parts) };
}

/**
 * The memory limit of this process. `constrained` is the limit of its control group: 0 if there is none, or more than all
 * memory.
 */
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
