/** The exposition format, line by line: names, types, labels and values. */
import { expect, test } from "vitest";
import type { EngineStats } from "../../../../gpu-backend/engine/messages.ts";
import { createMetrics, sequencesPerStep } from "../../../../gpu-backend/http/metrics.ts";
import type { BatchRequest } from "../../../../shared/contracts/inference.ts";
import { sequenceRequest } from "../../../support/engine-harness.ts";
import { doneFrame } from "../../../support/frames.ts";
import { noEngine } from "../../../support/metrics-view.ts";

const stats: EngineStats = {
  ...{ waiting: 7, running: 6, parked: 1, preemptions: 15, slots: 32, drafts: { checked: 20, accepted: 12 } },
  ...{ kvBytes: 4096, kvUsedBytes: 1024, kvCapacityBytes: 8192 },
  prefixes: { queriedTokens: 900, reusedTokens: 640, tenants: 3, blocks: 13, bytes: 2048, evictions: 14 },
  adapters: { entries: 2, bytes: 1000, hits: 5, generated: 3, evictions: 1, generationMs: 40 },
  memories: null,
};
const batch = (count: number, rest: Partial<BatchRequest>): BatchRequest => ({
  ...{ version: 4, manifestHash: "a".repeat(64), centroidId: null },
  sequences: Array.from({ length: count }, (_, i) => sequenceRequest(`s${i}`, [1])),
  ...rest,
});
const linesOf = async (metrics: { text(): Promise<string> }) => (await metrics.text()).split("\n");

test("counters follow the reports, gauges the engine at the time of the scrape", async () => {
  const now = { ...stats, waiting: 4 };
  const metrics = createMetrics({
    ...noEngine,
    stats: () => [now],
    manifests: () => ({ all: ["a", "b"], first: "b" }),
    device: { name: "webgpu", adapter: "A 1", driver: "a.so", selfTest: "passed", found: "" },
  });
  metrics.statsChanged(stats, null);
  metrics.phaseRan({ phase: "prefill", ms: 20, sequences: 2, tokens: 100, sampledTokens: 1 });
  metrics.phaseRan({ phase: "decode", ms: 4, sequences: 6, tokens: 6, sampledTokens: 6 });
  metrics.tokenArrived("first", 30);
  metrics.tokenArrived("next", 4);
  metrics.tokenArrived("next", 300);
  metrics.sequenceEnded(doneFrame("done", { adapterMs: 1, queueMs: 2, prefillMs: 20, decodeMs: 400 }));
  metrics.sequenceEnded({ type: "error", id: "x", kind: "cancelled", message: "", retryAfterSeconds: null });
  metrics.setRefused();
  now.waiting = 7;
  const lines = await linesOf(metrics);
  for (const line of [
    "# TYPE vllm:num_requests_waiting gauge",
    "vllm:num_requests_waiting 7",
    "vllm:num_requests_running 6",
    "chameleon_parked_sequences 1",
    "# TYPE vllm:num_preemptions_total counter",
    "vllm:num_preemptions_total 15",
    "chameleon_slots 32",
    "chameleon_kv_bytes 4096",
    "chameleon_kv_capacity_bytes 8192",
    "vllm:kv_cache_usage_perc 0.125",
    "# TYPE vllm:prefix_cache_queries_total counter",
    "vllm:prefix_cache_queries_total 900",
    "vllm:prefix_cache_hits_total 640",
    "chameleon_prefix_cache_tenants 3",
    "chameleon_prefix_cache_blocks 13",
    "chameleon_prefix_cache_bytes 2048",
    "chameleon_prefix_cache_evictions_total 14",
    "chameleon_adapter_cache_entries 2",
    "chameleon_adapter_cache_bytes 1000",
    "chameleon_adapter_cache_hits_total 5",
    "chameleon_adapter_cache_generated_total 3",
    "chameleon_adapter_cache_evictions_total 1",
    "chameleon_adapter_generation_seconds_total 0.04",
    "chameleon_memory_limit_bytes 100",
    'chameleon_memory_planned_bytes{part="kv"} 4',
    'chameleon_device{device="webgpu",self_test="passed",adapter="A 1",driver="a.so"} 1',
    'chameleon_artifact_sets{manifest="a",role="beside"} 1',
    'chameleon_artifact_sets{manifest="b",role="first"} 1',
    "chameleon_artifact_sets_refused_total 1",
    "vllm:generation_tokens_total 7",
    "chameleon_prefill_tokens_total 100",
    'chameleon_phase_duration_seconds_count{phase="decode"} 1',
    'chameleon_phase_duration_seconds_sum{phase="prefill"} 0.02',
    "# TYPE vllm:time_to_first_token_seconds histogram",
    'vllm:time_to_first_token_seconds_bucket{le="0.025"} 0',
    'vllm:time_to_first_token_seconds_bucket{le="0.05"} 1',
    "vllm:time_to_first_token_seconds_sum 0.03",
    "vllm:inter_token_latency_seconds_count 2",
    "vllm:request_queue_time_seconds_sum 0.002",
    "vllm:request_prefill_time_seconds_sum 0.02",
    "vllm:request_decode_time_seconds_sum 0.4",
    'chameleon_sequences_total{outcome="cancelled"} 1',
    `chameleon_sequences_total{outcome="${doneFrame("done").finishReason}"} 1`,
  ]) {
    expect(lines).toContain(line);
  }
});

test("counters end in _total, and nothing else does", async () => {
  const types = [...(await createMetrics(noEngine).text()).matchAll(/^# TYPE (\S+) (\w+)$/gm)];
  expect(types.length).toBeGreaterThan(20);
  for (const [, name, type] of types) expect([name, type === "counter"]).toEqual([name, name.endsWith("_total")]);
});

test("counters keep the counts of an engine that has ended", async () => {
  const metrics = createMetrics(noEngine);
  metrics.statsChanged(stats, null);
  metrics.statsChanged({ ...stats, preemptions: 16 }, stats);
  metrics.statsChanged({ ...stats, preemptions: 2 }, null);
  expect(await linesOf(metrics)).toContain("vllm:num_preemptions_total 18");
});

test("sequences are counted by their nearest centroid, never a few at a time", async () => {
  const metrics = createMetrics(noEngine);
  const shown = async () => (await linesOf(metrics)).filter((line) => line.startsWith("chameleon_centroid_sequences"));
  metrics.batchAccepted(batch(sequencesPerStep - 3, { centroidId: "c1" }));
  metrics.batchAccepted(batch(1, {}));
  metrics.batchAccepted(batch(1, { adapterHash: "b".repeat(64) }));
  expect(await shown()).toEqual([]);
  metrics.batchAccepted(batch(1, { centroidId: "c1" }));
  expect(await shown()).toEqual([
    `chameleon_centroid_sequences_total{centroid="c1"} ${sequencesPerStep - 2}`,
    'chameleon_centroid_sequences_total{centroid="base"} 1',
    'chameleon_centroid_sequences_total{centroid="own"} 1',
  ]);
});

test("two sets of metrics keep their own counts, and gauges read 0 without an engine", async () => {
  const [one, other] = [createMetrics(noEngine), createMetrics(noEngine)];
  one.sequenceEnded(doneFrame("done"));
  const counted = (await linesOf(other)).filter((line) => line.startsWith("chameleon_sequences_total"));
  expect(counted.filter((line) => !line.endsWith(" 0"))).toEqual([]);
  // Each outcome is printed before it first happens; otherwise a rate would miss the first one.
  expect(counted).toContain('chameleon_sequences_total{outcome="generation_failed"} 0');
  expect(await linesOf(other)).toEqual(expect.arrayContaining(["chameleon_slots 0", "vllm:kv_cache_usage_perc 0"]));
});
