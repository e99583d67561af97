/**
 * The public wire, inward: OpenAI's completion requests as far as they are served here, and requests of our own.
 * Unknown fields are ignored, so that other clients' extras pass.
 * Not here: checks that need the model (vocabulary, context), and the way from a request to sequences.
 */
import { z } from "zod";
import {
  absentAs,
  describe,
  isString,
  listOf,
  modelField,
  promptField,
  promptList,
  promptSchema,
  userField,
} from "./fields.ts";
import { asGeneration, generationFields, refuseTogether } from "./generation.ts";
import { limits } from "./limits.ts";

export const completionRequestSchema = z
  .object({
    ...generationFields,
    prompt: absentAs(
      promptList("prompt", limits.promptsPerRequest),
      null,
      "Texts or token ids; absent, the beginning of a new document",
    ).meta(promptSchema(limits.promptsPerRequest, true)),
    max_tokens: absentAs(z.int().min(0), 16, "Most tokens of each choice; the context bounds them, too"),
    logprobs: absentAs(
      z.int().min(0).max(limits.completionLogprobs),
      null,
      "Tell each token's logprob, and those of so many alternatives",
    ),
    echo: absentAs(z.boolean(), false, "Begin each choice with its prompt"),
    best_of: absentAs(z.int(), null, "Nothing but n is supported"),
    suffix: absentAs(z.string().meta({ maxLength: 0 }), null, "Not supported"),
  })
  .superRefine((request, context) => {
    const refuse = (param: string, message: string) =>
      context.addIssue({ code: "custom", path: [param], message, input: request });
    const maxTokens = { name: "max_tokens", value: request.max_tokens };
    refuseTogether(request, { prompts: request.prompt?.length ?? 1, maxTokens }, refuse);
    if (request.best_of !== null && request.best_of !== 1 && request.best_of !== request.n) {
      refuse("best_of", `best_of is ${request.best_of}; only best_of equal to n (${request.n}) is supported`);
    }
    if (request.suffix) refuse("suffix", "suffix is not supported: the model only continues text");
  })
  .transform(asGeneration);

export const assignRequestSchema = z.object({
  model: modelField("As a completion's"),
  input: promptField("input", limits.assignTexts, "Texts or token ids, as a completion's prompt"),
  top: absentAs(z.int().min(1).max(limits.assignTop), 4, "How many centroids to name per text, the nearest included"),
});

export const embeddingsRequestSchema = z.object({
  model: modelField("Any that is served: an adapter changes no embedding"),
  input: promptField("input", limits.embeddingInputs, "Texts or token ids"),
  dimensions: absentAs(z.int().min(1), null, "Keeps so many of the leading dimensions; absent, all"),
  encoding_format: absentAs(z.enum(["float", "base64"]), "float" as const, "`base64` is that of little-endian float32"),
  user: userField,
});

/** A document of a request; `name` null: it gets a number. */
export interface DocumentField {
  name: string | null;
  text: string;
}

const documentsField = listOf({
  ...{ name: "documents", of: "texts", min: 1, max: limits.documents },
  ...{ isEntry: isDocument, rule: "it must be a text that is not empty, or an object with such a text and a name" },
})
  .transform((list) =>
    list.map(
      (one): DocumentField => (isString(one) ? { name: null, text: one } : { name: one.name ?? null, text: one.text }),
    ),
  )
  .meta({
    description:
      "Texts whose words and phrasing answers take up where a prompt is like them. Each has a name of its own, or gets a number",
    type: "array",
    items: {
      anyOf: [
        { type: "string", minLength: 1, maxLength: limits.documentBodyBytes },
        {
          type: "object",
          properties: {
            name: { type: "string", minLength: 1, maxLength: limits.documentNameCharacters },
            text: { type: "string", minLength: 1, maxLength: limits.documentBodyBytes },
          },
          required: ["text"],
        },
      ],
    },
    minItems: 1,
    maxItems: limits.documents,
  });

function isDocument(value: unknown): value is string | { name?: string | null; text: string } {
  if (typeof value === "string") return value !== "";
  if (typeof value !== "object" || value === null) return false;
  const { name, text } = value as Record<string, unknown>;
  const isNamed = typeof name === "string" && name.length >= 1 && name.length <= limits.documentNameCharacters;
  return (isNamed || name === undefined || name === null) && typeof text === "string" && text !== "";
}

const adapterFields = z.object({
  name: z
    .string()
    .max(limits.adapterNameCharacters)
    .meta({ description: "What requests call it; must be free", pattern: "^[a-z0-9][a-z0-9_-]*$" }),
  documents: documentsField.nullish().transform((documents) => documents ?? null),
  examples: listOf({
    ...{ name: "examples", of: "strings", min: 2, max: limits.adapterExamples },
    ...{ isEntry: isString, rule: "it must be a string" },
  })
    .meta({
      description:
        "Texts of its subject. The gain is measured on texts that neither made nor chose the adapter, which takes three or more: of two the result is the base",
      type: "array",
      items: { type: "string", maxLength: limits.bodyBytes },
      minItems: 2,
      maxItems: limits.adapterExamples,
    })
    .nullish()
    .transform((examples) => examples ?? null),
});

export const createAdapterRequestSchema = adapterFields.superRefine(({ documents, examples }, context) => {
  if (documents !== null || examples !== null) return;
  const message = "documents and examples are absent; at least one of the two is needed";
  context.addIssue({ code: "custom", path: ["documents"], message, input: documents });
});

export const addDocumentsRequestSchema = z.object({ documents: documentsField });

export const usageQuerySchema = z.object({ from: day("from"), to: day("to") });

export type CompletionRequest = z.infer<typeof completionRequestSchema>;
export type AssignRequest = z.infer<typeof assignRequestSchema>;

function day(name: string) {
  return z.iso
    .date({ error: ({ input }) => `${name} is ${describe(input)}; it must be a day, as 2026-11-25` })
    .optional();
}
