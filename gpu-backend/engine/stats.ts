/** What an engine reports of itself at any time. */
import type { AdapterCache } from "../adapters/generated/adapter-cache.ts";
import type { PrefixCache } from "../kv/prefix-cache.ts";
import type { MemoryCache } from "../memory/memory-cache.ts";
import type { ModelRunner } from "../runtime/model-runner.ts";
import type { EngineStats } from "./messages.ts";
import type { PlanLimits, PlanState } from "./plan.ts";
import type { Sequence } from "./sequence.ts";

interface Parts {
  runner: Pick<ModelRunner, "kv">;
  adapters: Pick<AdapterCache, "stats">;
  memories?: { cache: Pick<MemoryCache, "stats"> };
  prefixCache: Pick<PrefixCache, "stats"> | null;
  limits: PlanLimits;
}

export function statsOf(
  { runner, adapters, memories, prefixCache, limits }: Parts,
  { waiting, running }: PlanState<Sequence>,
  preemptions: number,
): EngineStats {
  return {
    waiting: waiting.length,
    parked: waiting.filter((sequence) => sequence.kv).length,
    preemptions,
    running: running.size,
    slots: limits.maxSequences,
    kvBytes: runner.kv.bytes,
    kvUsedBytes: runner.kv.usedBytes,
    kvCapacityBytes: runner.kv.capacityBytes,
    prefixes: prefixCache?.stats ?? null,
    adapters: adapters.stats,
    memories: memories?.cache.stats ?? null,
  };
}
