import type { Manifest } from "../../shared/artifacts/manifest.ts";
import type { ErrorFrame, Frame, SequenceRequest } from "../../shared/contracts/inference.ts";
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
  /** A folder in the layout that training writes. */
  artifactsDirectory: string;
  threads: number;
  weightFormat: WeightFormat;
  device: DeviceReport;
  limits: PlanLimits;
  kvBytes: number;
  prefixCacheBytes: number;
  /** Folder for tenants' own adapters and memories, and for prepared graphs. */
  dataDirectory: string;
  tenantAdapterBytes: number;
  tenantMemoryBytes: number;
  memoryCacheBytes: number;
}

export type ToEngine =
  /** The first message. The parent sends no other message before `ready`. */
  | { type: "start"; settings: EngineSettings }
  /**
   * `adapterId` is as in Engine.submit. With `traced`, "traced" messages carry the results. `unwritten`: adapters and memories not on
   * disk.
   */
  | {
      type: "submit";
      adapterId: string | null;
      sequences: SequenceRequest[];
      traced: Traced | null;
      unwritten: [id: string, bytes: Uint8Array][];
    }
  | { type: "cancel"; ids: string[] }
  | { type: "dropMemory"; tenant: string; hash: string | null }
  /** The answer to `memoryWanted`. `unwritten`: the memory's bytes if they are not on disk. */
  | { type: "memoryBrought"; centroidId: string; unwritten: Uint8Array | null; error: ErrorFrame | null };

export type FromEngine =
  | { type: "ready"; info: EngineInfo }
  | { type: "failed"; message: string; stack: string }
  /** The last frame of the prompt follows. */
  | { type: "traced"; id: string; values: TracedValues }
  /** A sequence waits for the memory of a centroid. */
  | { type: "memoryWanted"; centroidId: string }
  | { type: "progress" }
  | { type: "fault"; description: string }
  /** `report` is null if the frames were made between two phases. */
  | { type: "frames"; frames: Frame[]; report: PhaseReport | null; stats: EngineStats };

export interface EngineInfo {
  manifest: Manifest;
  manifestHash: string;
  /** Numerics fingerprint: equal for backends that compute the same bits (start-prompt.ts). */
  numerics: string;
  device: Device;
  warnings: string[];
}

export interface PhaseReport {
  phase: "prefill" | "decode";
  ms: number;
  sequences: number;
  /** Number of tokens without padding. */
  tokens: number;
  sampledTokens: number;
}

export interface EngineStats {
  waiting: number;
  parked: number;
  preemptions: number;
  /** Counts of guessed tokens (drafts.ts). */
  drafts: { checked: number; accepted: number };
  running: number;
  slots: number;
  /** Bytes of running and parked sequences. */
  kvBytes: number;
  kvUsedBytes: number;
  kvCapacityBytes: number;
  prefixes: PrefixCache["stats"] | null;
  adapters: AdapterCache["stats"];
  memories: MemoryCache["stats"] | null;
}
