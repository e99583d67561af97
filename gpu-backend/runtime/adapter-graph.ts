/**
 * The adapters of the serving graph: the bank, whose directions all adapters share, and the pool of those that have their own.
 * Shapes: D hidden, V vocabulary, Q gates, N rows, R columns of the pool, W columns of a sample.
 */
import type { GraphBuilder } from "./graph.ts";
import { names } from "./graph-names.ts";
import type { Bank, Gpt2Config } from "./step.ts";
import { sampledColumns, sampleOf, summing, type VocabularySample } from "./vocabulary-sample.ts";

/** Slots for full adapters of one rank. */
export interface PoolShape {
  slots: number;
  rank: number;
}

/** What the bank's columns of a `VocabularySample` are, and what sums them. */
interface SampledBank {
  sample: VocabularySample;
  b: string; // [Q, W]
  summing: string; // [W, 3]
}

/** The bank and the pool, as both kinds of rows use them. */
export interface Adapters {
  /** u [N, Q] of hidden states [N, D], before the gates; null where there is no bank. */
  bank: { project(hidden: string): string; b: string; gates: number; sampled: SampledBank | null } | null;
  pool: { a: string; b: string; columns: number } | null;
}

/** What the parts of the head are made with. */
export interface HeadParts {
  g: GraphBuilder;
  config: Gpt2Config;
  adapters: Adapters;
  /** Base logits [N, V] of hidden states [N, D]. */
  baseLogits(hidden: string): string;
  /** Q·Kᵀ of [B, H, T, d] and [B, H, P, d]. */
  products(q: string, k: string): string;
  /** x [N, V] to the power of y [N, 1]; x is at least 0. */
  power(x: string, y: string): string;
}

export function addAdapters({
  g,
  config,
  bank,
  pool,
}: {
  g: GraphBuilder;
  config: Gpt2Config;
  bank: Bank;
  pool: PoolShape | null;
}): Adapters {
  const { hiddenSize: D, vocabularySize: V } = config;
  const { gates: Q } = bank;
  const columns = pool ? pool.slots * pool.rank : 0;
  let ofBank: Adapters["bank"] = null;
  if (Q > 0) {
    const a = g.constant(bank.a, [Q, D], "bank.a");
    const a0 = g.constant(bank.a0, [Q], "bank.a0");
    const b = g.constant(bank.b, [Q, V], "bank.b");
    const project = (hidden: string) => g.node("Gemm", [hidden, a, a0], { transB: 1 });
    ofBank = { project, b, gates: Q, sampled: addSampledBank(g, bank, V) };
  }
  return {
    bank: ofBank,
    pool: pool && {
      a: g.input(names.poolA, "float32", [columns, D]),
      b: g.input(names.poolB, "float32", [columns, V]),
      columns,
    },
  };
}

/** null where the vocabulary is small enough to be summed. */
function addSampledBank(g: GraphBuilder, { b, gates: Q }: Bank, vocabularySize: number): SampledBank | null {
  const sample = sampleOf(vocabularySize);
  if (!sample) return null;
  const W = sample.columns;
  return {
    sample,
    b: g.constant(sampledColumns(b, Q, sample), [Q, W], "bank.b.sampled"),
    summing: g.constant(summing(sample), [W, 3], "bank.summing"),
  };
}
