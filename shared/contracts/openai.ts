/**
 * The public wire, inward: OpenAI's completion requests as far as they are served here, and requests of our own.
 * Unknown fields are ignored, so that other clients' extras pass.
 * Not here: checks that need the model (vocabulary, context), and the way from a request to sequences.
 */
import * as z from "zod";
import { messagesSchema } from "./chat.ts";
import { type Example, readExample } from "./examples.ts";
import {
  absentAs,
  describe,
  isString,
  kindOf,
  listOf,
  modelField,
  promptField,
  promptList,
  promptSchema,
  refuser,
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

const text = { type: "string", minLength: 1, maxLength: limits.bodyBytes };
const exampleSchema = {
  anyOf: [
    text,
    { type: "object", properties: { prompt: text, completion: text }, required: ["prompt", "completion"] },
    { type: "object", properties: { messages: messagesSchema }, required: ["messages"] },
  ],
};

function readExamples(value: unknown, context: z.RefinementCtx): Example[] {
  const refuse = refuser(context, value);
  if (!Array.isArray(value)) return refuse(`examples is ${kindOf(value)}; it must be a list of examples`);
  const { length } = value;
  if (length < 2) return refuse(`examples has ${length} entries, the minimum is 2`);
  if (length > limits.adapterExamples) {
    return refuse(`examples has ${length} entries, the maximum is ${limits.adapterExamples}`);
  }
  const examples: Example[] = [];
  for (const [i, entry] of (value as unknown[]).entries()) {
    const read = readExample(entry, `examples[${i}]`);
    if (typeof read === "object" && "fault" in read) return refuse(read.fault);
    examples.push(read);
  }
  return examples;
}

/** Of an adapter, and of the job that makes one. */
export const keepField = absentAs(
  z.boolean(),
  true,
  "false: what it is made of is deleted once it is made. So it cannot be made again for other artifacts, with which it is gone, and its documents cannot change",
);

const adapterFields = z.object({
  name: z
    .string()
    .max(limits.adapterNameCharacters)
    .meta({ description: "What requests call it; must be free", pattern: "^[a-z0-9][a-z0-9_-]*$" }),
  documents: documentsField.nullish().transform((documents) => documents ?? null),
  examples: z
    .unknown()
    .transform(readExamples)
    .meta({
      description:
        "Examples of a task: of a text all tokens are learnt, of the others what the model shall answer. The adapter is kept if it gains on examples that it was not made from; else the base is served",
      type: "array",
      items: exampleSchema,
      minItems: 2,
      maxItems: limits.adapterExamples,
    })
    .nullish()
    .transform((examples) => examples ?? null),
  keep: keepField,
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
