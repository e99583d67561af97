/** What `chameleon eval` writes. */
import { z } from "zod";

/** A mean and its 95% interval, in nats a token. */
const estimate = z.strictObject({ mean: z.number(), ci95: z.tuple([z.number(), z.number()]) });
/** Documents held out of trained corpora; families that training could have used; text that is like nothing in training. */
export const kinds = ["trained", "left-out", "new"] as const;
const kind = z.enum(kinds);

/** The base; the static adapter; the nearest centroid's; the mixture by the prompt's evidence. */
export const methods = ["base", "static", "nearest", "mixture"] as const;
export type Method = (typeof methods)[number];
/** What the mixture is compared with, and all are that the base is. */
export const comparisons = ["static", "nearest", "mixture", "mixture over static", "mixture over nearest"] as const;
export type Comparison = (typeof comparisons)[number];

/** Parts of the scored tokens: those that are not white space, those that the prompt has, and those that it has not. */
export const tokenClasses = ["no white space", "in the prompt", "not in the prompt"] as const;
export type TokenClass = (typeof tokenClasses)[number];

const byComparison = <T extends z.ZodType>(value: T) => z.record(z.enum(comparisons), value);

/** One source after prompts of one length; intervals are over documents. */
const row = z.strictObject({
  kind,
  name: z.string(),
  /** Tokens of the prompt. */
  prompt: z.int(),
  documents: z.int(),
  texts: z.int(),
  base: z.strictObject({ nats: z.number(), bitsPerByte: z.number() }),
  gains: byComparison(estimate),
  /** Mean of the 5% of texts that gain least. */
  worst: byComparison(z.number()),
});

/** Mean over the sources of a kind, each counting once; intervals are over sources and their documents. */
const mean = z.strictObject({
  kind,
  prompt: z.int(),
  sources: z.int(),
  base: z.strictObject({ nats: z.number(), bitsPerByte: z.number() }),
  gains: byComparison(estimate),
  /** The same of parts of the tokens. A part that no source has is left out. */
  parts: z.partialRecord(z.enum(tokenClasses), byComparison(estimate)),
  /** Mean over the sources of their worst texts. */
  worst: byComparison(z.number()),
});

export const evaluationSchema = z.strictObject({
  model: z.string(),
  /** SHA-256 of manifest.json. */
  artifacts: z.string(),
  /** SHA-256 of the corpus lock. */
  lock: z.string(),
  rows: z.array(row),
  means: z.array(mean),
});

export type Estimate = z.infer<typeof estimate>;
export type Kind = z.infer<typeof kind>;
export type EvaluationRow = z.infer<typeof row>;
export type EvaluationMean = z.infer<typeof mean>;
export type Evaluation = z.infer<typeof evaluationSchema>;

/** The same data with every number rounded to three decimals. */
export function rounded<T>(value: T): T {
  return JSON.parse(JSON.stringify(value, (_, one) => (typeof one === "number" ? Number(one.toFixed(3)) : one))) as T;
}
