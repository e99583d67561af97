/**
 * The adapters of the serving graph: the bank, whose directions all adapters share.
 * Shapes: D hidden, V vocabulary, Q gates, N rows, W columns of a sample.
 */
import type { GraphBuilder } from "./graph.ts";
import type { Bank, ModelShape } from "./step.ts";
import { sampledColumns, sampleOf, summing, type VocabularySample } from "./vocabulary-sample.ts";

/** What the bank's columns of a `VocabularySample` are, and what sums them. */
interface SampledBank {
  sample: VocabularySample;
  b: string; // [Q, W]
  summing: string; // [W, 3]
}

/** The bank, as both kinds of rows use it. */
export interface GraphBank {
  /** u [N, Q] of hidden states [N, D], before the gates. */
  project(hidden: string): string;
  b: string;
  gates: number;
  sampled: SampledBank | null;
}

/** What the parts of the head are made with. */
export interface HeadParts {
  g: GraphBuilder;
  config: ModelShape;
  /** null where there is none. */
  bank: GraphBank | null;
  /** Base logits [N, V] of hidden states [N, D]. */
  baseLogits(hidden: string): string;
  /** Q·Kᵀ of [B, H, T, d] and [B, H, P, d]. */
  products(q: string, k: string): string;
  /** x [N, V] to the power of y [N, 1]; x is at least 0. */
  power(x: string, y: string): string;
}

/** null for a bank without gates. */
export function addBank(
  g: GraphBuilder,
  { hiddenSize: D, vocabularySize: V }: ModelShape,
  bank: Bank,
): GraphBank | null {
  const { gates: Q } = bank;
  if (Q === 0) return null;
  const a = g.constant(bank.a, [Q, D], "bank.a");
  const a0 = g.constant(bank.a0, [Q], "bank.a0");
  const b = g.constant(bank.b, [Q, V], "bank.b");
  const project = (hidden: string) => g.node("Gemm", [hidden, a, a0], { transB: 1 });
  return { project, b, gates: Q, sampled: addSampledBank(g, bank, V) };
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
