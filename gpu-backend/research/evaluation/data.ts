/** What `chameleon eval` writes and `report` reads. */
import { z } from "zod";

/** A mean and its 95% interval, in nats a token. */
const estimate = z.strictObject({ mean: z.number(), ci95: z.tuple([z.number(), z.number()]) });
/** Length of the prompt in tokens, or "question": the prompt is the question of a record and its answer is scored. */
const prompt = z.union([z.int(), z.literal("question")]);
const kind = z.enum(["trained", "new"]);

/** By method, without the base. */
const gains = {
  /** Gain over the base. */
  gains: z.record(z.string(), estimate),
  /** The mixture's lead over each other method. */
  mixtureOver: z.record(z.string(), estimate),
};

/** One source after prompts of one length; intervals are over documents. */
const row = z.strictObject({
  kind,
  name: z.string(),
  prompt,
  documents: z.int(),
  texts: z.int(),
  /** The base was trained on this text, as far as the corpus lock can tell. */
  known: z.boolean(),
  /** The artifacts were trained without these documents. */
  heldOut: z.boolean(),
  base: z.strictObject({ nats: z.number(), bitsPerByte: z.number() }),
  ...gains,
  /** Mean gain of the 5% of texts that gain least, by method. */
  worst: z.record(z.string(), z.number()),
});

/** Mean over the sources of a kind, each counting once; intervals are over sources and their documents. */
const mean = z.strictObject({ kind, prompt, sources: z.int(), ...gains });

export const evaluationSchema = z.strictObject({
  model: z.string(),
  /** SHA-256 of manifest.json. */
  artifacts: z.string(),
  /** SHA-256 of the corpus lock. */
  lock: z.string(),
  /** Of the weights. */
  format: z.string(),
  rows: z.array(row),
  means: z.array(mean),
});

export type Estimate = z.infer<typeof estimate>;
export type Kind = z.infer<typeof kind>;
export type PromptLength = z.infer<typeof prompt>;
export type EvaluationRow = z.infer<typeof row>;
export type EvaluationMean = z.infer<typeof mean>;
export type Evaluation = z.infer<typeof evaluationSchema>;

/** The same data with every number rounded to three decimals. */
export function rounded<T>(value: T): T {
  return JSON.parse(JSON.stringify(value, (_, one) => (typeof one === "number" ? Number(one.toFixed(3)) : one))) as T;
}
