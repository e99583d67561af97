/** Messages between the backend's process and the engine's, and what the engine reports of its work. */
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import type { Frame, SequenceRequest } from "../../shared/contracts/inference.ts";
import type { AdapterCacheStats } from "../adapters/generated/adapter-cache.ts";
import type { PrefixCacheStats } from "../kv/prefix-cache.ts";
import type { MemoryCacheStats } from "../memory/memory-cache.ts";
import type { DeviceSetting } from "../runtime/device.ts";
import type { WeightFormat } from "../runtime/products.ts";
import type { Device } from "../runtime/session.ts";
import type { PlanLimits } from "./plan.ts";
import type { Traced } from "./traces.ts";

export interface EngineSettings {
  modelDirectory: string;
  /** The served set, in the layout that training writes. */
  artifactsDirectory: string;
  threads: number;
  weightFormat: WeightFormat;
  device: DeviceSetting;
  limits: PlanLimits;
  kvBytes: number;
  prefixCacheBytes: number;
  /** Where tenants' own adapters and memories are kept (tenant-files/). */
  dataDirectory: string;
  tenantAdapterBytes: number;
  tenantMemoryBytes: number;
  memoryCacheBytes: number;
}

export type ToEngine =
  /** The first message; nothing else before `ready` has come. */
  | { type: "start"; settings: EngineSettings }
  /**
   * `adapterId` is a centroid's, or a tenant's own (adapters/own/artifact.ts); `traced` asks for what `FromEngine` "traced" has; `unwritten` are
   * own adapters and memories by id that are not on disk.
   */
  | {
      type: "submit";
      adapterId: string | null;
      sequences: SequenceRequest[];
      traced: Traced | null;
      unwritten: [id: string, bytes: Uint8Array][];
    }
  | { type: "cancel"; ids: string[] }
  /** A memory of a tenant was deleted, or all of them (null): its copy goes, and sequences that read it end in `memory_deleted`. */
  | { type: "dropMemory"; tenant: string; hash: string | null };

export type TracedValues = Float32Array<ArrayBuffer> | Int8Array<ArrayBuffer>;

export type FromEngine =
  | { type: "ready"; info: EngineInfo }
  /** The last message: the error that ends the process. */
  | { type: "failed"; message: string; stack: string }
  /**
   * Of a traced prompt of n tokens: hidden states before those from `from` on, [n − from, D], or a memory's keys, [n, D]. Its last frame
   * follows.
   */
  | { type: "traced"; id: string; values: TracedValues }
  /** A pass has finished and its phase continues: the engine does not hang. */
  | { type: "progress" }
  /** A sequence ended because it cannot be computed; for the log. */
  | { type: "fault"; description: string }
  /** The frames of one phase (or of what happened between two). */
  | { type: "frames"; frames: Frame[]; report: PhaseReport | null; stats: EngineStats };

export interface EngineInfo {
  manifest: Manifest;
  manifestHash: string;
  /** Numerics fingerprint: equal for backends that compute the same bits (start-prompt.ts). */
  numerics: string;
  device: Device;
  /** Why it is not the requested device. */
  warnings: string[];
}

/** One phase that ran. */
export interface PhaseReport {
  phase: "prefill" | "decode";
  ms: number;
  sequences: number;
  /** Tokens fed to the trunk, padding not counted. */
  tokens: number;
  /** Tokens sampled. */
  sampledTokens: number;
}

/** The state of the engine: its queue, its memory and its caches. */
export interface EngineStats {
  waiting: number;
  /** Waiting sequences that ran before and were interrupted for another tenant. */
  parked: number;
  /** Times that a sequence was parked. */
  preemptions: number;
  running: number;
  slots: number;
  /** Bytes allocated for keys and values of running and parked sequences. */
  kvBytes: number;
  /** Bytes of the positions in use. */
  kvUsedBytes: number;
  /** Maximum of `kvBytes`. */
  kvCapacityBytes: number;
  /** null if there is no prefix cache. */
  prefixes: PrefixCacheStats | null;
  adapters: AdapterCacheStats;
  memories: MemoryCacheStats | null;
}
