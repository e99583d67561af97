/** Prometheus metrics. A metric that vLLM has, too, has vLLM's name. */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import { type BatchRequest, finishReasonSchema, type ServingDevice } from "../../shared/contracts/inference.ts";
import { type ErrorKind, errorKinds } from "../../shared/errors.ts";
import type { EngineStats } from "../engine/messages.ts";
import type { EngineObserver } from "../host/client.ts";
import type { DiskState } from "../tenant-files/tenant-store.ts";
import { centroidLabel } from "./log.ts";

/** Histogram buckets in seconds, from a small model's decode step to a large model's long prefill. */
const phaseSeconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5];
/** Histogram buckets in seconds, up to the time that the edge waits for an answer. */
const requestSeconds = [...phaseSeconds, 5, 10, 20, 40, 80, 160];

/** Counters by centroid change only after this many sequences, so that frequent scrapes do not reveal single requests. */
export const sequencesPerStep = 50;

export interface Metrics
  extends Pick<EngineObserver, "phaseRan" | "statsChanged" | "tokenArrived" | "sequenceEnded" | "engineFailed"> {
  batchAccepted(batch: BatchRequest): void;
  /** `computedTokens`: number of tokens whose keys were computed. */
  memoryBuilt(outcome: "ready" | ErrorKind, computedTokens: number): void;
  setRefused(): void;
  text(): Promise<string>;
  readonly contentType: string;
}

export interface MetricsView {
  stats(): readonly EngineStats[];
  /** `first` is the preferred set. */
  manifests(): { all: readonly string[]; first: string | null };
  device: ServingDevice;
  memory: { limitBytes: number; parts: Readonly<Record<string, number>> };
  disk: { adapter(): DiskState; memory(): DiskState };
}

export function createMetrics({ stats, manifests, device, memory, disk }: MetricsView): Metrics {
  const registers = [new Registry()];
  const [registry] = registers;
  const counter = (name: string, help: string, labelNames: string[] = []) =>
    new Counter({ name, help, labelNames, registers });
  const sum = (read: Entry[2]) => stats().reduce((total, one) => total + read(one), 0);
  for (const [name, help, read] of gauges) addGauge(registry, name, help, () => sum(read));
  addGauge(registry, "vllm:kv_cache_usage_perc", "Share of that bound that holds keys and values, 0 to 1", () => {
    const capacity = sum((s) => s.kvCapacityBytes);
    return capacity > 0 ? sum((s) => s.kvUsedBytes) / capacity : 0;
  });
  const counted = counters.map(([name, help, read]) => ({ counter: counter(name, help), read }));
  const memoryLimitHelp = "Memory limit of the backend's processes together: of its container, or the machine's memory";
  addGauge(registry, "chameleon_memory_limit_bytes", memoryLimitHelp, () => memory.limitBytes);
  const planned = new Gauge({
    name: "chameleon_memory_planned_bytes",
    help: "Memory that may be taken at the same time, by what takes it",
    labelNames: ["part"],
    registers,
  });
  for (const [part, bytes] of Object.entries(memory.parts)) planned.set({ part }, bytes);

  new Gauge({
    name: "chameleon_device",
    help: "1 for the device that serves, with the adapter that was tested and the self-test's result",
    labelNames: ["device", "adapter", "driver", "self_test"],
    registers,
  }).set(
    { device: device.name, self_test: device.selfTest, adapter: device.adapter ?? "", driver: device.driver ?? "" },
    1,
  );
  new Gauge({
    name: "chameleon_artifact_sets",
    help: "1 for each manifest that is served: first of all, or beside it for who still asks for it",
    labelNames: ["manifest", "role"],
    registers,
    collect() {
      this.reset();
      const { all, first } = manifests();
      for (const manifest of all) this.set({ manifest, role: manifest === first ? "first" : "beside" }, 1);
    },
  });
  addDiskMetrics(registry, "adapter", "own adapters", disk.adapter);
  addDiskMetrics(registry, "memory", "memories", disk.memory);
  const memoryBuilds = counter("chameleon_memory_builds_total", "Ended builds of memories, by error kind, or ready", [
    "outcome",
  ]);
  for (const outcome of ["ready", ...errorKinds]) memoryBuilds.inc({ outcome }, 0);
  const memoryTokens = counter("chameleon_memory_built_tokens_total", "Tokens of documents whose keys were computed");
  const setsRefused = counter(
    "chameleon_artifact_sets_refused_total",
    "Refusals of published artifacts or their pointer",
  );
  const restarts = counter(
    "chameleon_engine_restarts_total",
    "Failures of an engine's process, which is then restarted",
  );
  const sampledTokens = counter("vllm:generation_tokens_total", "Tokens sampled");
  const prefillTokens = counter(
    "chameleon_prefill_tokens_total",
    "Prompt tokens prefilled, not found in the prefix cache",
  );
  const phases = new Histogram({
    name: "chameleon_phase_duration_seconds",
    help: "Duration of one phase of a step",
    labelNames: ["phase"],
    buckets: phaseSeconds,
    registers,
  });
  const sequences = counter("chameleon_sequences_total", "Sequences that ended, by finish reason or error kind", [
    "outcome",
  ]);
  // Every outcome starts at 0, so that a rate counts its first sequence, too.
  for (const outcome of [...finishReasonSchema.options, ...errorKinds]) sequences.inc({ outcome }, 0);

  const requestTimes = (name: string, help: string) =>
    new Histogram({ name: `vllm:${name}_seconds`, help, buckets: requestSeconds, registers });
  const times = {
    first: requestTimes("time_to_first_token", "From a sequence's arrival to its first token; not of resumed ones"),
    next: requestTimes("inter_token_latency", "Between two tokens of a sequence"),
    queue: requestTimes("request_queue_time", "Of completed sequences: waiting for a slot"),
    prefill: requestTimes("request_prefill_time", "Of completed sequences: from the slot to the cached prompt"),
    decode: requestTimes("request_decode_time", "Of completed sequences: from the cached prompt to the end"),
  };
  const byCentroid = counter(
    "chameleon_centroid_sequences_total",
    `Sequences by their nearest centroid, or "base" or "own"; it moves in steps of ${sequencesPerStep}`,
    ["centroid"],
  );
  let uncounted: string[] = [];

  return {
    phaseRan({ phase, ms, tokens, sampledTokens: sampled }) {
      phases.observe({ phase }, ms / 1000);
      sampledTokens.inc(sampled);
      if (phase === "prefill") prefillTokens.inc(tokens);
    },
    statsChanged(after, before) {
      for (const { counter, read } of counted) counter.inc(read(after) - (before ? read(before) : 0));
    },
    tokenArrived(which, ms) {
      times[which].observe(ms / 1000);
    },
    sequenceEnded(last) {
      sequences.inc({ outcome: last.type === "done" ? last.finishReason : last.kind });
      if (last.type === "error") return;
      const { queueMs, prefillMs, decodeMs } = last.timings;
      times.queue.observe(queueMs / 1000);
      times.prefill.observe(prefillMs / 1000);
      times.decode.observe(decodeMs / 1000);
    },
    batchAccepted(batch) {
      uncounted.push(...batch.sequences.map((sequence) => centroidLabel(batch, sequence)));
      if (uncounted.length < sequencesPerStep) return;
      for (const centroid of uncounted) byCentroid.inc({ centroid });
      uncounted = [];
    },
    memoryBuilt(outcome, computedTokens) {
      memoryBuilds.inc({ outcome });
      memoryTokens.inc(computedTokens);
    },
    engineFailed: () => restarts.inc(),
    setRefused: () => setsRefused.inc(),
    text: () => registry.metrics(),
    contentType: registry.contentType,
  };
}

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
  ["chameleon_memory_cache_entries", "Memories that are open for search", (s) => s.memories?.entries ?? 0],
  ["chameleon_memory_cache_bytes", "RAM of memories that are open for search", (s) => s.memories?.bytes ?? 0],
];

const counters: Entry[] = [
  ["vllm:num_preemptions_total", "Times a sequence gave way to another tenant", (s) => s.preemptions],
  ["vllm:spec_decode_num_draft_tokens_total", "Guesses of next tokens that passes checked", (s) => s.drafts.checked],
  ["vllm:spec_decode_num_accepted_tokens_total", "Guesses of next tokens that were right", (s) => s.drafts.accepted],
  ["vllm:prefix_cache_queries_total", "Prompt tokens looked for in the cache", (s) => s.prefixes?.queriedTokens ?? 0],
  ["vllm:prefix_cache_hits_total", "Prompt tokens found there, not prefilled", (s) => s.prefixes?.reusedTokens ?? 0],
  ["chameleon_prefix_cache_evictions_total", "Blocks dropped for want of memory", (s) => s.prefixes?.evictions ?? 0],
  ["chameleon_adapter_cache_hits_total", "Adapters of sequences that were there", (s) => s.adapters.hits],
  ["chameleon_adapter_cache_generated_total", "Adapters generated", (s) => s.adapters.generated],
  ["chameleon_adapter_cache_evictions_total", "Adapters dropped for want of memory", (s) => s.adapters.evictions],
  ["chameleon_memory_cache_opened_total", "Memories opened for search", (s) => s.memories?.opened ?? 0],
  ["chameleon_memory_cache_evictions_total", "Memories closed for want of RAM", (s) => s.memories?.evictions ?? 0],
  ["chameleon_adapter_generation_seconds_total", "Time of generations", (s) => s.adapters.generationMs / 1000],
];

function addGauge(registry: Registry, name: string, help: string, read: () => number): void {
  new Gauge({
    ...{ name, help, registers: [registry] },
    collect() {
      this.set(read());
    },
  });
}

function addDiskMetrics(registry: Registry, kind: string, what: string, disk: () => DiskState): void {
  const gauges: [name: string, help: string, read: (state: DiskState) => number][] = [
    ["disk_files", `Files of ${what} on disk`, ({ files }) => files],
    ["disk_bytes", `Bytes of ${what} on disk`, ({ bytes }) => bytes],
    ["unwritten_bytes", `Memory of ${what} that are not on disk`, ({ unwrittenBytes }) => unwrittenBytes],
  ];
  for (const [name, help, read] of gauges) addGauge(registry, `chameleon_${kind}_${name}`, help, () => read(disk()));
  new Counter({
    name: `chameleon_${kind}_write_failures_total`,
    help: `Writes of ${what} that the disk refused, so that they are kept in memory if they fit`,
    registers: [registry],
    collect() {
      this.reset();
      this.inc(disk().failures);
    },
  });
}
