/** What `chameleon eval:own` writes. */
import { z } from "zod";
import { memoryRuleSchema } from "../../../../shared/artifacts/manifest.ts";

/** development: kinds that memories were developed and fitted on; each is measured under the fit of the others. fresh: no others. */
export const groups = ["development", "fresh"] as const;
export type Group = (typeof groups)[number];

/** What the head reads: the base's state, an adapter's, and the base's after a passage of the known text. */
export const models = ["base", "static", "mixture", "passage"] as const;
export type Model = (typeof models)[number];

const estimate = z.strictObject({ mean: z.number(), ci95: z.tuple([z.number(), z.number()]) });
const byMethod = <T extends z.ZodType>(value: T) => z.record(z.string(), value);

const row = z.strictObject({
  group: z.enum(groups),
  name: z.string(),
  texts: z.int(),
  documents: z.int(),
  base: z.strictObject({ nats: z.number(), bitsPerByte: z.number(), accuracy: z.number() }),
  /** Over the base, in nats a token; intervals are over documents. Keys are methods (score.ts). */
  gains: byMethod(estimate),
});

/** Over the kinds of a group, each counting once; intervals are over kinds and their documents. */
const mean = z.strictObject({
  group: z.enum(groups),
  kinds: z.int(),
  methods: byMethod(
    z.strictObject({
      gain: estimate,
      median: z.number(),
      worstKind: z.strictObject({ name: z.string(), gain: z.number() }),
      /** Of all texts: the 1st and 5th percentile. */
      lowTexts: z.tuple([z.number(), z.number()]),
      /** Of tokens that are not white space alone. */
      noWhiteSpace: estimate,
      /** Points of next-token accuracy over the base. */
      accuracy: estimate,
      /** Leading tokens of a greedy suggestion of up to 32 that the author wrote. */
      suggested: z.number(),
    }),
  ),
});

const fit = z.strictObject({
  theta: z.number(),
  /** Fitted on all development kinds. */
  weights: memoryRuleSchema.shape.weights,
  /** Gains of the development kinds, each under the weights of the others. */
  gains: byMethod(estimate),
});

export const ownEvaluationSchema = z.strictObject({
  model: z.string(),
  /** SHA-256 of the corpus lock. */
  lock: z.string(),
  fresh: z.array(z.string()),
  fits: z.array(fit),
  /** The rule of the figures. */
  rule: memoryRuleSchema,
  rows: z.array(row),
  means: z.array(mean),
});

export type OwnEvaluation = z.infer<typeof ownEvaluationSchema>;
export type OwnRow = z.infer<typeof row>;
export type OwnMean = z.infer<typeof mean>;
export type Fit = z.infer<typeof fit>;
