/** The measured figures as data: what `npm run eval` writes, and what the committed figures of documents are rendered from. */
import { z } from "zod";

const interval = z.tuple([z.number(), z.number()]);
/** A mean and its 95% interval. */
const estimate = z.strictObject({ mean: z.number(), ci95: interval });

/** Prompt tokens, or the question of a record. */
const prompt = z.union([z.int(), z.literal("question")]);
const kind = z.enum(["trained", "new"]);

/** One source after prompts of one length; gains are nats a token over the base, their intervals over documents. */
const shippedRow = z.strictObject({
  kind,
  name: z.string(),
  prompt,
  documents: z.int(),
  texts: z.int(),
  /** The base was trained on such text, as far as the corpus lock can tell. */
  known: z.boolean(),
  /** The artifacts were trained without these documents. */
  heldOut: z.boolean(),
  base: z.strictObject({ nats: z.number(), bitsPerByte: z.number() }),
  nearest: estimate,
  mixture: estimate,
  /** In bits a byte. */
  mixtureBits: estimate,
  mixtureOverNearest: estimate,
  /** Of the base and all adapters the one that is best for each text, chosen afterwards; null where it was not measured. */
  oracle: estimate.nullable(),
  /** Mean of the twentieth of the texts that lose most, by the mixture. */
  worst: z.number(),
});

/** Over the sources of a kind, each counting once; intervals over sources and their documents. */
const shippedMean = z.strictObject({
  kind,
  prompt,
  sources: z.int(),
  nearest: estimate,
  mixture: estimate,
  mixtureBits: estimate,
  mixtureOverNearest: estimate,
  oracle: estimate.nullable(),
});

export const shippedSchema = z.strictObject({
  model: z.string(),
  /** SHA-256 of manifest.json. */
  artifacts: z.string(),
  lock: z.string(),
  format: z.string(),
  rows: z.array(shippedRow),
  means: z.array(shippedMean),
});

/** A trained method on the test windows. */
const methodRow = z.strictObject({
  method: z.string(),
  trainable: z.int(),
  /** What validation chose for it, where something was chosen. */
  chosen: z.string(),
  /** Over all tokens, each seed's own. */
  perplexityBySeed: z.array(z.number()),
  perplexity: z.number(),
  bitsPerByte: z.number(),
  /** Over the base, and of the shipped bank over it; mean of the domains, interval over domains and documents. */
  overBase: estimate.nullable(),
  bankOver: estimate.nullable(),
  /** The same with every token counting once, interval over documents. */
  bankOverPooled: estimate.nullable(),
});

const methodDomain = z.strictObject({
  name: z.string(),
  known: z.boolean(),
  testDocuments: z.int(),
  tokens: z.int(),
  /** By method, seeds averaged. */
  perplexity: z.record(z.string(), z.number()),
  /** Of the shipped bank, intervals over documents. */
  bankOverBase: estimate,
  bankOverStatic: estimate,
});

const familyRow = z.strictObject({
  text: z.string(),
  /** Whether the family was left out of bank and calibration, or is text that the bank knows. */
  leftOut: z.boolean(),
  promptTokens: z.int(),
  mixture: estimate,
  nearest: estimate,
});

const paperRow = z.strictObject({
  row: z.string(),
  trainable: z.int(),
  paperLoss: z.number(),
  published: z.number().nullable(),
  honestLoss: z.number(),
});

const paperSchema = z.strictObject({
  rows: z.array(paperRow),
  lines: z.int(),
  steps: z.int(),
  paddedShare: z.number(),
  padBias: z.number(),
});

export const figuresSchema = z.strictObject({
  format: z.literal(1),
  artifacts: z.string(),
  lock: z.string(),
  /** Of everything that was trained to be compared. */
  settings: z.record(z.string(), z.union([z.number(), z.string(), z.array(z.number())])),
  shipped: shippedSchema,
  methods: z.strictObject({ rows: z.array(methodRow), domains: z.array(methodDomain), wrongCentroidKeeps: z.number() }),
  leaveOneOut: z.array(familyRow),
  paper: paperSchema,
});

export type Kind = z.infer<typeof kind>;
export type Prompt = z.infer<typeof prompt>;
export type ShippedRow = z.infer<typeof shippedRow>;
export type Shipped = z.infer<typeof shippedSchema>;
export type MethodRow = z.infer<typeof methodRow>;
export type MethodDomain = z.infer<typeof methodDomain>;
export type FamilyRow = z.infer<typeof familyRow>;
export type Figures = z.infer<typeof figuresSchema>;

/** Every number that is not whole to so many places: what documents show, and what a second run gives again. */
const places = 3;

/** The same data with rounded numbers. */
export function rounded<T>(value: T): T {
  if (typeof value === "number") return Number(value.toFixed(places)) as T;
  if (Array.isArray(value)) return value.map(rounded) as T;
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, rounded(one)])) as T;
}
