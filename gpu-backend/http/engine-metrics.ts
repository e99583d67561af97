/**
 * The engines' state as Prometheus sees it: gauges are read when scraped, counters grow by what changed between two states of one
 * engine, so that an engine that ends takes nothing back. vLLM's names where the number means the same.
 */
import { Counter, Gauge, type Registry } from "prom-client";
import type { EngineStats } from "../engine/reports.ts";

type Entry = [name: string, help: string, read: (stats: EngineStats) => number];

const gauges: Entry[] = [
  ["vllm:num_requests_waiting", "Sequences waiting for a slot", (s) => s.waiting],
  ["vllm:num_requests_running", "Sequences that hold a slot", (s) => s.running],
  ["chameleon_parked_sequences", "Waiting sequences that ran and gave way to another tenant", (s) => s.parked],
  ["chameleon_slots", "Slots", (s) => s.slots],
  ["chameleon_kv_bytes", "Memory allocated for keys and values of running and parked sequences", (s) => s.kvBytes],
  ["chameleon_kv_capacity_bytes", "Bound on that memory (KV_BYTES)", (s) => s.kvCapacityBytes],
  ["chameleon_prefix_cache_blocks", "Prompt blocks whose keys and values are kept", (s) => s.prefixes?.blocks ?? 0],
  ["chameleon_prefix_cache_bytes", "Memory of those blocks", (s) => s.prefixes?.bytes ?? 0],
  ["chameleon_prefix_cache_tenants", "Tenants that have such blocks", (s) => s.prefixes?.tenants ?? 0],
  ["chameleon_adapter_cache_entries", "Adapters in the cache", (s) => s.adapters.entries],
  ["chameleon_adapter_cache_bytes", "Memory of the adapters in the cache", (s) => s.adapters.bytes],
];

const counters: Entry[] = [
  ["vllm:num_preemptions_total", "Times a sequence gave way to another tenant", (s) => s.preemptions],
  ["vllm:prefix_cache_queries_total", "Prompt tokens looked for in the cache", (s) => s.prefixes?.queriedTokens ?? 0],
  ["vllm:prefix_cache_hits_total", "Prompt tokens found there, not prefilled", (s) => s.prefixes?.reusedTokens ?? 0],
  ["chameleon_prefix_cache_evictions_total", "Blocks dropped for want of memory", (s) => s.prefixes?.evictions ?? 0],
  ["chameleon_adapter_cache_hits_total", "Micro-batches whose adapter was there", (s) => s.adapters.hits],
  ["chameleon_adapter_cache_generated_total", "Adapters generated", (s) => s.adapters.generated],
  ["chameleon_adapter_cache_evictions_total", "Adapters dropped for want of memory", (s) => s.adapters.evictions],
  ["chameleon_adapter_generation_seconds_total", "Time of generations", (s) => s.adapters.generationMs / 1000],
];

/** Registers the metrics. `stats` gives the state of each engine at work; the returned function hears of each change. */
export function addEngineMetrics(
  registry: Registry,
  stats: () => readonly EngineStats[],
): (after: EngineStats, before: EngineStats | null) => void {
  const registers = [registry];
  const sum = (read: Entry[2]) => stats().reduce((total, one) => total + read(one), 0);
  const gauge = (name: string, help: string, value: () => number) =>
    new Gauge({
      ...{ name, help, registers },
      collect() {
        this.set(value());
      },
    });
  for (const [name, help, read] of gauges) gauge(name, help, () => sum(read));
  gauge("vllm:kv_cache_usage_perc", "Share of that bound that holds keys and values, 0 to 1", () => {
    const capacity = sum((s) => s.kvCapacityBytes);
    return capacity > 0 ? sum((s) => s.kvUsedBytes) / capacity : 0;
  });
  const counted = counters.map(([name, help, read]) => ({ counter: new Counter({ name, help, registers }), read }));
  return (after, before) => {
    for (const { counter, read } of counted) counter.inc(read(after) - (before ? read(before) : 0));
  };
}
