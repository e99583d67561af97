/** What `chameleon eval` writes. */

/** A mean and its 95% interval, in nats a token. */
export interface Estimate {
  mean: number;
  ci95: [number, number];
}

/** Documents held out of trained corpora; families that training could have used; text that is like nothing in training. */
export const kinds = ["trained", "left-out", "new"] as const;
export type Kind = (typeof kinds)[number];

/** The base; the static adapter; the nearest centroid's; the mixture by the prompt's evidence. */
export const methods = ["base", "static", "nearest", "mixture"] as const;
export type Method = (typeof methods)[number];
/** What the mixture is compared with, and all are that the base is. */
export const comparisons = ["static", "nearest", "mixture", "mixture over static", "mixture over nearest"] as const;
export type Comparison = (typeof comparisons)[number];

/** Parts of the scored tokens: those that are not white space, those that the prompt has, and those that it has not. */
export const tokenClasses = ["no white space", "in the prompt", "not in the prompt"] as const;
export type TokenClass = (typeof tokenClasses)[number];

/** Mean surprisal of the scored tokens under the base. */
export interface BaseLoss {
  nats: number;
  bitsPerByte: number;
}

/** One source after prompts of one length; intervals are over documents. */
export interface EvaluationRow {
  kind: Kind;
  name: string;
  /** Tokens of the prompt. */
  prompt: number;
  documents: number;
  texts: number;
  base: BaseLoss;
  gains: Record<Comparison, Estimate>;
  /** Mean of the 5% of texts that gain least. */
  worst: Record<Comparison, number>;
}

/** Mean over the sources of a kind, each counting once; intervals are over sources and their documents. */
export interface EvaluationMean {
  kind: Kind;
  prompt: number;
  sources: number;
  base: BaseLoss;
  gains: Record<Comparison, Estimate>;
  /** The same of parts of the tokens. A part that no source has is left out. */
  parts: Partial<Record<TokenClass, Record<Comparison, Estimate>>>;
  /** Mean over the sources of their worst texts. */
  worst: Record<Comparison, number>;
}

export interface Evaluation {
  model: string;
  /** SHA-256 of manifest.json. */
  artifacts: string;
  /** SHA-256 of the corpus lock. */
  lock: string;
  rows: EvaluationRow[];
  means: EvaluationMean[];
}

/** The same data with every number rounded to three decimals. */
export function rounded<T>(value: T): T {
  return JSON.parse(JSON.stringify(value, (_, one) => (typeof one === "number" ? Number(one.toFixed(3)) : one))) as T;
}
