/** What the engine tells of its work. */
import type { AdapterCacheStats } from "../adapters/adapter-cache.ts";
import type { PoolStats } from "../adapters/pool-slots.ts";
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

/** Where the engine stands. */
export interface EngineStats {
  waiting: number;
  /** Of those waiting: they ran before and gave way to another tenant. */
  parked: number;
  /** Times that a sequence was parked. */
  preemptions: number;
  running: number;
  slots: number;
  /** Memory allocated for keys and values of running and parked sequences. */
  kvBytes: number;
  /** Of the positions that hold any. */
  kvUsedBytes: number;
  /** Bound on them all. */
  kvCapacityBytes: number;
  /** null where nothing is kept of a prompt. */
  prefixes: PrefixCacheStats | null;
  adapters: AdapterCacheStats;
  /** null where the graph has no pool. */
  pool: PoolStats | null;
}
