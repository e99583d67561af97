import { expect, test } from "vitest";
import { createMetrics } from "../../../../gpu-backend/http/metrics.ts";

const noEngine = { stats: () => [], manifests: () => ({ all: [], first: null }) };

test("counters follow the reports, gauges the engine at the time of the scrape", async () => {
  const adapters = { entries: 2, bytes: 1000, hits: 5, generated: 3, evictions: 1, generationMs: 40 };
  const pool = { slots: 8, resident: 7, pinned: 2, evictions: 9 };
  const prefixes = { hits: 11, misses: 12, reusedTokens: 640, blocks: 13, bytes: 2048, evictions: 14 };
  let waiting = 4;
  const sequences = { running: 6, parked: 1, preemptions: 15, slots: 32 };
  const metrics = createMetrics({
    stats: () => [{ waiting, ...sequences, kvBytes: 4096, prefixes, adapters, pool }],
    manifests: () => ({ all: ["a", "b"], first: "b" }),
  });
  metrics.phaseRan({ phase: "prefill", ms: 20, sequences: 2, tokens: 100, sampledTokens: 1 });
  metrics.phaseRan({ phase: "decode", ms: 4, sequences: 6, tokens: 6, sampledTokens: 6 });
  metrics.sequenceEnded("stop");
  metrics.sequenceEnded("cancelled");
  metrics.setRefused();
  waiting = 7;
  const text = await metrics.text();
  for (const line of [
    "chameleon_queue_sequences 7",
    "chameleon_running_sequences 6",
    "chameleon_parked_sequences 1",
    "chameleon_preemptions 15",
    "chameleon_slots 32",
    "chameleon_kv_bytes 4096",
    "chameleon_prefix_cache_hits 11",
    "chameleon_prefix_cache_misses 12",
    "chameleon_prefix_cache_reused_tokens 640",
    "chameleon_prefix_cache_blocks 13",
    "chameleon_prefix_cache_bytes 2048",
    "chameleon_prefix_cache_evictions 14",
    "chameleon_adapter_cache_bytes 1000",
    "chameleon_adapter_cache_hits 5",
    "chameleon_adapter_cache_generated 3",
    "chameleon_adapter_cache_evictions 1",
    "chameleon_adapter_generation_seconds 0.04",
    "chameleon_adapter_pool_slots 8",
    "chameleon_adapter_pool_resident 7",
    "chameleon_adapter_pool_pinned 2",
    "chameleon_adapter_pool_evictions 9",
    'chameleon_artifact_sets{manifest="a",role="beside"} 1',
    'chameleon_artifact_sets{manifest="b",role="first"} 1',
    "chameleon_artifact_sets_refused_total 1",
    "chameleon_sampled_tokens_total 7",
    "chameleon_prefill_tokens_total 100",
    'chameleon_phase_duration_seconds_count{phase="decode"} 1',
    'chameleon_phase_duration_seconds_sum{phase="prefill"} 0.02',
    'chameleon_sequences_total{outcome="cancelled"} 1',
  ]) {
    expect(text.split("\n")).toContain(line);
  }
});

test("two of them keep their own counts, and no engine reads as zero", async () => {
  const [one, other] = [createMetrics(noEngine), createMetrics(noEngine)];
  one.sequenceEnded("stop");
  expect(await other.text()).not.toContain('outcome="stop"');
  expect(await other.text()).toContain("chameleon_slots 0");
});
