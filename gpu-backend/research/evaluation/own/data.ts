/** What `chameleon eval:own` writes. */
import type { MemoryRule } from "../../../../shared/math/memory.ts";
import type { BaseLoss, Estimate } from "../data.ts";

/** development: kinds that memories were developed and fitted on; each is measured under the fit of the others. fresh: no others. */
export const groups = ["development", "fresh"] as const;
export type Group = (typeof groups)[number];

/**
 * What the head reads: the base's state, an adapter's, that of an own adapter of the known text (at full strength, as `auto` mixes
 * it, and as `auto` mixes it beside the memory), and the base's after a passage of the known text.
 */
export type Model = "base" | "static" | "mixture" | "adapter" | "auto" | "both" | "passage";

export interface OwnRow {
  group: Group;
  name: string;
  texts: number;
  documents: number;
  base: BaseLoss & { accuracy: number };
  /** Whether the fit on the known text gave an own adapter. */
  hasAdapter: boolean;
  /** Over the base, in nats a token; intervals are over documents. Keys are methods (evaluate.ts). */
  gains: Record<string, Estimate>;
}

export interface MethodMean {
  gain: Estimate;
  median: number;
  worstKind: { name: string; gain: number };
  /** Of all texts: the 1st and 5th percentile. */
  lowTexts: [number, number];
  /** Of tokens that are not white space alone. */
  noWhiteSpace: Estimate;
  /** Points of next-token accuracy over the base. */
  accuracy: Estimate;
  /** Leading tokens of a greedy suggestion of up to 32 that the author wrote. */
  suggested: number;
}

/** Over the kinds of a group, each counting once; intervals are over kinds and their documents. */
export interface OwnMean {
  group: Group;
  kinds: number;
  methods: Record<string, MethodMean>;
}

export interface Fit {
  theta: number;
  /** Fitted on all development kinds. */
  weights: MemoryRule["weights"];
  /** Gains of the development kinds, each under the weights of the others. */
  gains: Record<string, Estimate>;
}

export interface OwnEvaluation {
  model: string;
  /** SHA-256 of the corpus lock. */
  lock: string;
  fresh: string[];
  fits: Fit[];
  /** The rule of the figures. */
  rule: MemoryRule;
  rows: OwnRow[];
  means: OwnMean[];
}
