/** Plans the RAM of the backend's processes. If KV_BYTES is not set, also chooses the bytes for keys and values. Pure. */
import { maxCacheBytes } from "../adapters/generated/adapter-cache.ts";
import { bytesPerPosition, deviceContextBytes, kvShapeOf } from "../kv/kv-budget.ts";
import type { ModelConfig } from "../runtime/model-config.ts";
import { parametersOf } from "../runtime/model-weights.ts";
import { kvFormatFor, type WeightFormat } from "../runtime/products.ts";

/**
 * Bytes of RAM for each parameter of the model. `session`: an open session with its working storage. `loading`: the peak of a start, when
 * model file, graph and session are in RAM. The values are rounded up from measurements (`npm run bench -- --memory`): fp32 and int8
 * with GPT-2 124M, `exact` with SmolLM2-135M in 4-bit blocks, whose process takes 490 MB to start. `exact` has room for 8-bit blocks, too.
 */
const bytesPerParameter: Record<WeightFormat, { session: number; loading: number }> = {
  fp32: { session: 8.5, loading: 16.5 },
  int8: { session: 4, loading: 13 },
  exact: { session: 4, loading: 5 },
};
/** Bytes for each parameter of the model, in the process that fits adapters. It holds the head in fp32, and ends when it is idle. */
const fitterBytesPerParameter = 10;
/** Bytes of each process without a model: the HTTP process, an engine for each set, and one fitter. */
const processBytes = 120e6;
/** Keys and values get this share of the RAM that the other parts leave. The rest is for garbage and for copies within a step. */
const kvShare = 0.8;
/** Bytes for keys and values of a set on a device, whose memory is not known. */
const deviceKvBytes = 4e9;

/** Maximum sets of artifacts side by side, while one replaces another. */
export const maxSets = 2;

export interface MemorySettings {
  /** Limit of all processes together: the container's limit or the machine's RAM. */
  limitBytes: number;
  model: ModelConfig;
  weightFormat: WeightFormat;
  /** Whether the model's file has quantized matrices. The format `exact` keeps floats as they are. */
  isInBlocks: boolean;
  /** 1 if no published artifacts are followed, else `maxSets`. */
  sets: number;
  maxSequences: number;
  /** Whether keys and values are on a device, and so take none of the limit. */
  isOnDevice: boolean;
  /** null: chosen from the RAM that is left, or `deviceKvBytes`. */
  kvBytes: number | null;
  prefixCacheBytes: number;
  memoryCacheBytes: number;
}

/** Plans all parts. `kvBytes` of the result, for one set, holds at least one sequence as long as the context unless KV_BYTES is set. */
export function planMemory(settings: MemorySettings) {
  const { limitBytes, model, weightFormat, isInBlocks, sets, maxSequences, isOnDevice } = settings;
  const parameters = parametersOf(model);
  const { session, loading } = bytesPerParameter[weightFormat === "exact" && !isInBlocks ? "fp32" : weightFormat];
  const taken = {
    processes: (sets + 2) * processBytes,
    sessions: sets * session * parameters,
    // RAM for the start of one set or for a fitter, whichever needs more. If both run at the same time, the plan is exceeded.
    loading: Math.max(loading - session, fitterBytesPerParameter) * parameters,
    prefix_caches: isOnDevice ? 0 : sets * settings.prefixCacheBytes,
    adapter_caches: sets * maxCacheBytes,
    memories: sets * settings.memoryCacheBytes,
  };
  const left = limitBytes - sum(taken);
  const shape = kvShapeOf(model, kvFormatFor(weightFormat));
  const contextBytes = model.contextTokens * bytesPerPosition(shape);
  const maxBytes = maxSequences * contextBytes;
  const preset = isOnDevice
    ? Math.max(deviceKvBytes, deviceContextBytes(shape))
    : Math.floor(Math.max(contextBytes, Math.min(maxBytes, (kvShare * left) / sets)));
  const kvBytes = settings.kvBytes ?? preset;
  const parts = { ...taken, kv: isOnDevice ? 0 : sets * kvBytes };
  return { limitBytes, kvBytes, parts, plannedBytes: sum(parts) };
}

/** `constrained`: the limit of the process's control group, which may be 0 (none) or more than the machine's RAM, `total`. */
export function memoryLimit(constrained: number, total: number): number {
  return constrained > 0 ? Math.min(constrained, total) : total;
}

export function memorySentence({ limitBytes, parts, plannedBytes }: ReturnType<typeof planMemory>): string {
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
