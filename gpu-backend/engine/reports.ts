/** What the engine reports of its work. */
import type { AdapterCacheStats } from "../adapters/generated/adapter-cache.ts";
import type { PrefixCacheStats } from "../kv/prefix-cache.ts";

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
}
