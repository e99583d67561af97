/** The file that `eval` writes and `report` reads: its fields, and nothing of how they come about. */
import { z } from "zod";
import { weightFormats } from "../../runtime/gpt2-graph.ts";
import { methods } from "./methods.ts";

export const resultFormat = 1;

const method = z.enum(methods);
const interval = z.tuple([z.number(), z.number()]);
/** A difference of mean losses in nats a token (positive: better), with its 95% interval over documents. */
const gain = z.strictObject({ nats: z.number(), ci95: interval, tokens: z.int() });

const summary = z.strictObject({
  /** Over the domains in training, seeds averaged: the exponential of the mean loss. */
  ppl: z.number(),
  /** Of the base's own domains, and of the others in training. null: there are none. */
  pplKnown: z.number().nullable(),
  pplNew: z.number().nullable(),
  /** Of domains that no adapter was trained on. */
  pplUnseen: z.number().nullable(),
  /** Of `ppl`, from a bootstrap over documents. */
  ci95: interval,
  /** Over the same domains, each seed's own. */
  pplBySeed: z.array(z.number()),
  trainable: z.int(),
  /** Over the base; null for the base. */
  gain: gain.nullable(),
  learningRate: z.number().nullable(),
  /** Training and scoring, all seeds. */
  seconds: z.number(),
});

const paperRow = z.strictObject({
  row: z.string(),
  trainable: z.int(),
  /** Mean loss by the paper's measure, and what the paper gives for GPT-2; null for what it has no row of. */
  paperLoss: z.number(),
  published: z.number().nullable(),
  /** The same adapters on the honest test windows, nats a token. */
  honestLoss: z.number(),
});

export const resultSchema = z.strictObject({
  format: z.literal(resultFormat),
  model: z.strictObject({ name: z.string(), weights: z.string(), parameters: z.int() }),
  options: z.record(z.string(), z.union([z.number(), z.string(), z.boolean(), z.array(z.number())])),
  domains: z.array(
    z.strictObject({
      name: z.string(),
      /** Part of the base's own training text. */
      known: z.boolean(),
      /** No adapter was trained on it. */
      unseen: z.boolean(),
      documents: z.int(),
      tokens: z.int(),
      testDocuments: z.int(),
    }),
  ),
  results: z.array(
    z.strictObject({
      method,
      domain: z.string(),
      known: z.boolean(),
      unseen: z.boolean(),
      seed: z.int(),
      /** Nats a token. */
      nll: z.number(),
      tokens: z.int(),
    }),
  ),
  summary: z.partialRecord(method, summary),
  /** Gated bank over static of equal size, and shipped bank over base, by domain. */
  gains: z.array(z.strictObject({ domain: z.string(), overStatic: gain, overBase: gain, shippedOverBase: gain })),
  /** Gated bank over the static adapter of equal size, over all domains in training. null without an honest run. */
  overStatic: gain.nullable(),
  controls: z
    .strictObject({
      /** `kept`: the share of the right centroid's gain over the base that any other centroid's adapter has too. */
      wrongCentroid: z.strictObject({ gain, kept: z.number() }),
      constantInput: z.strictObject({ overStatic: gain }),
      /** Gated bank, windows of one centroid left out: the one with most training text, the one that gains most. */
      withoutLargestCluster: z.strictObject({ overBase: gain, overStatic: gain }),
      withoutBestCluster: z.strictObject({ overBase: gain, overStatic: gain }),
    })
    .nullable(),
  /** First seed, gated bank. */
  centroids: z.array(
    z.strictObject({
      id: z.string(),
      label: z.array(z.string()),
      size: z.int(),
      position: z.tuple([z.number(), z.number()]),
      scale: z.number(),
      overBase: gain.nullable(),
      overStatic: gain.nullable(),
    }),
  ),
  /** Test documents on the centroids' map. */
  documents: z.array(
    z.strictObject({ domain: z.string(), centroid: z.string(), position: z.tuple([z.number(), z.number()]) }),
  ),
  prefixLengths: z.array(z.strictObject({ length: z.int(), overBase: gain, agreement: z.number() })),
  /** The base's perplexity as each weight format serves it, on windows of the test split. */
  formats: z.array(z.strictObject({ format: z.enum(weightFormats), ppl: z.number(), tokens: z.int() })),
  curves: z.array(z.strictObject({ method, step: z.int(), nats: z.number() })),
  paper: z
    .strictObject({
      rows: z.array(paperRow),
      /** Scored lines, and the share of them that end in padding. */
      lines: z.int(),
      paddedShare: z.number(),
      /** What the control adds to the padding's logit. */
      padBias: z.number(),
    })
    .nullable(),
  seconds: z.number(),
});

export type EvaluationResult = z.infer<typeof resultSchema>;
export type PaperResult = NonNullable<EvaluationResult["paper"]>;
