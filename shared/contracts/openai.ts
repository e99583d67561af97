/** Requests of OpenAI's completions and embeddings, and of this project's own routes. Unknown fields are ignored. */
import * as z from "zod";
import { messagesSchema } from "./chat.ts";
import { type Example, readExample } from "./examples.ts";
import { absentAs, describe, isString, kindOf, listOf, modelField, promptField, refuser, userField } from "./fields.ts";
import { asGeneration, generationFields, refuseTogether } from "./generation.ts";
import { limits } from "./limits.ts";

export const completionRequestSchema = z
  .object({
    ...generationFields,
    prompt: absentAs(
      promptField("prompt", limits.promptsPerRequest),
      null,
      "Texts or token ids; absent, the beginning of a new document",
    ),
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
  input: promptField("input", limits.assignTexts).meta({ description: "As a completion's prompt" }),
  top: absentAs(z.int().min(1).max(limits.assignTop), 4, "How many centroids to name per text, the nearest included"),
});

export const embeddingsRequestSchema = z.object({
  model: modelField("Any that is served: an adapter changes no embedding"),
  input: promptField("input", limits.embeddingInputs).meta({ description: "Texts or token ids" }),
  dimensions: absentAs(z.int().min(1), null, "Keeps so many of the leading dimensions; absent, all"),
  encoding_format: absentAs(z.enum(["float", "base64"]), "float" as const, "`base64` is that of little-endian float32"),
  user: userField,
});

const textOfAtMost = (maxLength: number) => ({ type: "string", minLength: 1, maxLength });
const documentText = textOfAtMost(limits.documentBodyBytes);
const documentName = { anyOf: [textOfAtMost(limits.documentNameCharacters), { type: "null" }] };
const documentsField = z
  .unknown()
  .transform(readDocuments)
  .meta({
    ...{ type: "array", minItems: 1, maxItems: limits.documents },
    items: {
      anyOf: [
        documentText,
        { type: "object", properties: { name: documentName, text: documentText }, required: ["text"] },
      ],
    },
    description:
      "Texts whose words and phrasing answers take up where a prompt is like them. Each has a name of its own, or gets a number",
  });
/** A document without a name gets a number as its name. */
export type DocumentField = z.output<typeof documentsField>[number];

/** Does not use a zod schema, which takes ten times as long for thousands of documents. */
function readDocuments(value: unknown, context: z.RefinementCtx) {
  const refuse = refuser(context, value);
  if (!Array.isArray(value)) return refuse(`documents is ${kindOf(value)}; it must be a list`);
  const { length } = value;
  if (length > limits.documents) return refuse(`documents has ${length} entries, the maximum is ${limits.documents}`);
  if (length === 0) return refuse("documents has 0 entries, the minimum is 1");
  const documents: { name: string | null; text: string }[] = [];
  for (const [i, entry] of (value as unknown[]).entries()) {
    const { name = null, text }: { name?: unknown; text?: unknown } = isString(entry) ? { text: entry } : (entry ?? {});
    if (!isString(text) || !(name === null || isString(name))) {
      const rule = "it must be a text that is not empty, or an object with such a text and a name";
      return refuse(`a document is ${describe(entry)}; ${rule}`, [i]);
    }
    const nameLength = name === null ? 1 : charactersOf(name, limits.documentNameCharacters);
    const isNamed = nameLength >= 1 && nameLength <= limits.documentNameCharacters;
    if (!isNamed || text.length < 1 || text.length > limits.documentBodyBytes) {
      const [key, length] = isNamed ? ["text", text.length] : ["name", nameLength];
      const [path, at] = isString(entry) ? [[i], `documents[${i}]`] : [[i, key], `documents[${i}].${key}`];
      const max = isNamed ? limits.documentBodyBytes : limits.documentNameCharacters;
      const bound = length === 0 ? "the minimum is 1" : `the maximum is ${max}`;
      return refuse(`${at} has ${length} characters, ${bound}`, path);
    }
    documents.push({ name, text });
  }
  return documents;
}

/** Counts code points, as JSON Schema's `maxLength` does. Does not count in a text that is certainly too long. */
function charactersOf(text: string, max: number): number {
  return text.length <= max || text.length > 4 * max ? text.length : [...text].length;
}

const text = { type: "string", minLength: 1, maxLength: limits.bodyBytes };
const exampleSchema = {
  anyOf: [
    text,
    { type: "object", properties: { prompt: text, completion: text }, required: ["prompt", "completion"] },
    { type: "object", properties: { messages: messagesSchema }, required: ["messages"] },
  ],
};

const examplesField = listOf("examples", z.unknown().meta(exampleSchema), { min: 2, max: limits.adapterExamples })
  .transform((entries, context) => {
    const examples: Example[] = [];
    for (const [i, entry] of entries.entries()) {
      const read = readExample(entry, `examples[${i}]`);
      if (typeof read === "object" && "fault" in read) return refuser(context, entries)(read.fault);
      examples.push(read);
    }
    return examples;
  })
  .meta({
    description:
      "Examples of a task: of a text all tokens are learnt, of the others what the model shall answer. The adapter is kept if it gains on examples that it was not made from; else the base is served",
  });

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
  examples: examplesField.nullish().transform((examples) => examples ?? null),
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
