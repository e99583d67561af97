/** Plans the RAM of the backend's processes. Pure. */
import { maxCacheBytes } from "../adapters/generated/adapter-cache.ts";
import { bytesPerPosition, deviceContextBytes, kvShapeOf } from "../kv/kv-budget.ts";
import type { ModelConfig } from "../runtime/model-config.ts";
import { parametersOf } from "../runtime/model-weights.ts";
import { kvFormatFor, steadyRows, type WeightFormat } from "../runtime/products.ts";

/**
 * Bytes of RAM for each parameter of the model. `session`: an open session with its working storage. `loading`: the peak of a start.
 * Rounded up from measurements (`npm run bench -- --memory`): fp32 and int8 with GPT-2 124M, `exact` with SmolLM2-135M in 4-bit blocks.
 * fp16, which only devices serve, is counted as fp32.
 */
const bytesPerParameter: Record<WeightFormat, { session: number; loading: number }> = {
  fp32: { session: 8.5, loading: 16.5 },
  fp16: { session: 8.5, loading: 16.5 },
  int8: { session: 4, loading: 13 },
  exact: { session: 4, loading: 5 },
};
/** The process that fits adapters holds the head in fp32. */
const fitterBytesPerParameter = 10;
/** Bytes of a process without a model. */
const processBytes = 120e6;
/** Keys and values get this share of the remaining RAM. Garbage and copies within a step need RAM, too. */
const kvShare = 0.8;
/** The memory of a device is not known, so keys and values get this number of bytes. */
const deviceKvBytes = 4e9;

/** One set of artifacts is served while another replaces it. */
export const maxSets = 2;

export interface MemorySettings {
  /** The container's limit or the machine's RAM. */
  limitBytes: number;
  model: ModelConfig;
  weightFormat: WeightFormat;
  isInBlocks: boolean;
  /** 1 if no published artifacts are followed, else `maxSets`. */
  sets: number;
  maxSequences: number;
  /** On a device, keys and values take none of the limit. */
  isOnDevice: boolean;
  /** null: chosen from the RAM that is left, or `deviceKvBytes`. */
  kvBytes: number | null;
  prefixCacheBytes: number;
  memoryCacheBytes: number;
}

/** The result's `kvBytes` holds at least one sequence as long as the context, unless KV_BYTES is set. */
export function planMemory(settings: MemorySettings) {
  const { limitBytes, model, weightFormat, isInBlocks, sets, maxSequences, isOnDevice } = settings;
  const parameters = parametersOf(model);
  const { session, loading } = bytesPerParameter[weightFormat === "exact" && !isInBlocks ? "fp32" : weightFormat];
  const taken = {
    processes: (sets + 2) * processBytes,
    sessions: sets * session * parameters,
    // The plan is exceeded if a set starts while a fitter runs.
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
    ? Math.max(deviceKvBytes, deviceContextBytes(shape, steadyRows(weightFormat)))
    : Math.floor(Math.max(contextBytes, Math.min(maxBytes, (kvShare * left) / sets)));
  const kvBytes = settings.kvBytes ?? preset;
  const parts = { ...taken, kv: isOnDevice ? 0 : sets * kvBytes };
  return { limitBytes, kvBytes, parts, plannedBytes: sum(parts) };
}

/** `constrained` is the limit of the process's control group: 0 means none. `total` is the machine's RAM. */
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
