/** Messages between the backend's process and an engine's process. */
import type { Manifest } from "../../shared/artifacts/manifest.ts";
import type { Frame, SequenceRequest } from "../../shared/contracts/inference.ts";
import type { AdapterCache } from "../adapters/generated/adapter-cache.ts";
import type { PrefixCache } from "../kv/prefix-cache.ts";
import type { MemoryCache } from "../memory/memory-cache.ts";
import type { DeviceReport } from "../runtime/device.ts";
import type { WeightFormat } from "../runtime/products.ts";
import type { Device } from "../runtime/session.ts";
import type { PlanLimits } from "./plan.ts";
import type { Traced, TracedValues } from "./traces.ts";

export interface EngineSettings {
  modelDirectory: string;
  /** Folder of the served set, in the layout that training writes. */
  artifactsDirectory: string;
  threads: number;
  weightFormat: WeightFormat;
  device: DeviceReport;
  limits: PlanLimits;
  kvBytes: number;
  prefixCacheBytes: number;
  /** Folder of tenants' own adapters and memories, and of prepared graphs. */
  dataDirectory: string;
  tenantAdapterBytes: number;
  tenantMemoryBytes: number;
  memoryCacheBytes: number;
}

export type ToEngine =
  /** The first message. Other messages follow only after `ready`. */
  | { type: "start"; settings: EngineSettings }
  /** `adapterId` as in Engine.submit. With `traced`, "traced" messages answer prompts. `unwritten`: adapters and memories not on disk. */
  | {
      type: "submit";
      adapterId: string | null;
      sequences: SequenceRequest[];
      traced: Traced | null;
      unwritten: [id: string, bytes: Uint8Array][];
    }
  | { type: "cancel"; ids: string[] }
  /** A memory of a tenant was deleted or, if `hash` is null, all memories of the tenant: see Engine.dropMemory. */
  | { type: "dropMemory"; tenant: string; hash: string | null };

export type FromEngine =
  | { type: "ready"; info: EngineInfo }
  /** The last message: the error ends the process. */
  | { type: "failed"; message: string; stack: string }
  /** The values of a traced prompt. Its last frame follows. */
  | { type: "traced"; id: string; values: TracedValues }
  /** A pass has finished, so the engine is not stalled. */
  | { type: "progress" }
  /** A sequence ended because it cannot be computed. */
  | { type: "fault"; description: string }
  /** Frames of one phase or, if `report` is null, frames that were made between two phases. */
  | { type: "frames"; frames: Frame[]; report: PhaseReport | null; stats: EngineStats };

export interface EngineInfo {
  manifest: Manifest;
  manifestHash: string;
  /** Numerics fingerprint: equal for backends that compute the same bits (start-prompt.ts). */
  numerics: string;
  device: Device;
  /** For the log: that int8 is not smoothed, or why the prepared graph could not be kept. */
  warnings: string[];
}

export interface PhaseReport {
  phase: "prefill" | "decode";
  ms: number;
  sequences: number;
  /** Tokens that the trunk computed, without padding. */
  tokens: number;
  sampledTokens: number;
}

export interface EngineStats {
  waiting: number;
  /** Waiting sequences that were parked. */
  parked: number;
  preemptions: number;
  running: number;
  slots: number;
  /** Bytes allocated for keys and values of running and parked sequences. */
  kvBytes: number;
  /** The part of `kvBytes` that holds positions. */
  kvUsedBytes: number;
  kvCapacityBytes: number;
  prefixes: PrefixCache["stats"] | null;
  adapters: AdapterCache["stats"];
  memories: MemoryCache["stats"] | null;
}
