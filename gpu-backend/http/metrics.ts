/** What Prometheus sees: counters fed by the engine's reports, gauges read when scraped. */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import { similarityBins } from "../../shared/math/assignment-profile.ts";
import type { EngineObserver } from "../engine/client.ts";
import type { EngineStats } from "../engine/reports.ts";
import { type CountedAssignment, promptsPerStep } from "./assignment-counter.ts";

/** Seconds: from a small model's decode step to a long prefill of a large one. */
const phaseSeconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5];

export interface Metrics extends Pick<EngineObserver, "phaseRan" | "sequenceEnded"> {
  /** Published artifacts could not be taken up. */
  setRefused(): void;
  /** Prompts fell on centroids; never a single one. */
  assigned(assignments: readonly CountedAssignment[]): void;
  /** In Prometheus' text format. */
  text(): Promise<string>;
  readonly contentType: string;
}

/** What is asked at each scrape. */
export interface MetricsView {
  /** Of every engine at work. */
  stats(): readonly EngineStats[];
  /** Hashes of the manifests that are served, and which of them first of all. */
  manifests(): { all: readonly string[]; first: string | null };
}

export function createMetrics({ stats, manifests }: MetricsView): Metrics {
  const registers = [new Registry()];
  const [registry] = registers;
  const gauge = (name: string, help: string, read: (stats: EngineStats) => number) =>
    new Gauge({
      name: `chameleon_${name}`,
      help,
      registers,
      collect() {
        this.set(stats().reduce((sum, one) => sum + read(one), 0));
      },
    });
  gauge("queue_sequences", "Sequences waiting for a slot", (s) => s.waiting);
  gauge("parked_sequences", "Of those, sequences that ran and gave way to another tenant", (s) => s.parked);
  gauge("preemptions", "Times a sequence gave way", (s) => s.preemptions);
  gauge("running_sequences", "Sequences that hold a slot", (s) => s.running);
  gauge("slots", "Slots", (s) => s.slots);
  gauge("kv_bytes", "Memory of keys and values of running and parked sequences", (s) => s.kvBytes);
  gauge("prefix_cache_blocks", "Prompt blocks whose keys and values are kept", (s) => s.prefixes?.blocks ?? 0);
  gauge("prefix_cache_bytes", "Memory of those blocks", (s) => s.prefixes?.bytes ?? 0);
  // Counted by the engine, so set, not incremented; as are those of the adapters.
  gauge("prefix_cache_hits", "Sequences that found their beginning", (s) => s.prefixes?.hits ?? 0);
  gauge("prefix_cache_misses", "Sequences that found nothing of it", (s) => s.prefixes?.misses ?? 0);
  gauge("prefix_cache_reused_tokens", "Prompt tokens that were not prefilled", (s) => s.prefixes?.reusedTokens ?? 0);
  gauge("prefix_cache_evictions", "Blocks dropped for want of memory", (s) => s.prefixes?.evictions ?? 0);
  gauge("adapter_cache_entries", "Adapters in the cache", (s) => s.adapters.entries);
  gauge("adapter_cache_bytes", "Memory of the adapters in the cache", (s) => s.adapters.bytes);
  gauge("adapter_cache_hits", "Micro-batches whose adapter was there", (s) => s.adapters.hits);
  gauge("adapter_cache_generated", "Adapters generated", (s) => s.adapters.generated);
  gauge("adapter_cache_evictions", "Adapters dropped for want of memory", (s) => s.adapters.evictions);
  gauge("adapter_generation_seconds", "Time that generations took, in all", (s) => s.adapters.generationMs / 1000);
  gauge("adapter_pool_slots", "Slots for adapters of their own directions", (s) => s.pool?.slots ?? 0);
  gauge("adapter_pool_resident", "Slots that hold an adapter", (s) => s.pool?.resident ?? 0);
  gauge("adapter_pool_pinned", "Slots whose adapter a running sequence wears", (s) => s.pool?.pinned ?? 0);
  gauge("adapter_pool_evictions", "Times an adapter made room for another", (s) => s.pool?.evictions ?? 0);

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
  const setsRefused = new Counter({
    name: "chameleon_artifact_sets_refused_total",
    help: "Times that published artifacts, or their pointer, were not as they should be",
    registers,
  });
  const sampledTokens = new Counter({ name: "chameleon_sampled_tokens_total", help: "Tokens sampled", registers });
  const prefillTokens = new Counter({ name: "chameleon_prefill_tokens_total", help: "Tokens prefilled", registers });
  const phases = new Histogram({
    name: "chameleon_phase_duration_seconds",
    help: "Duration of one phase of a step",
    labelNames: ["phase"],
    buckets: phaseSeconds,
    registers,
  });
  const sequences = new Counter({
    name: "chameleon_sequences_total",
    help: "Sequences that ended, by finish reason or error kind",
    labelNames: ["outcome"],
    registers,
  });

  const similarity = new Histogram({
    name: "chameleon_assignment_similarity",
    help: `Cosine of prompts and the centroids that they fell on; it moves in steps of ${promptsPerStep} prompts`,
    labelNames: ["centroid"],
    buckets: Array.from({ length: similarityBins - 1 }, (_, bin) => (bin + 1) / similarityBins),
    registers,
  });

  return {
    assigned(assignments) {
      for (const one of assignments) similarity.observe({ centroid: one.centroidId }, one.similarity);
    },
    phaseRan({ phase, ms, tokens, sampledTokens: sampled }) {
      phases.observe({ phase }, ms / 1000);
      sampledTokens.inc(sampled);
      if (phase === "prefill") prefillTokens.inc(tokens);
    },
    sequenceEnded(outcome) {
      sequences.inc({ outcome });
    },
    setRefused() {
      setsRefused.inc();
    },
    text: () => registry.metrics(),
    contentType: registry.contentType,
  };
}
