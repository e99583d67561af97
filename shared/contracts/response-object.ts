/** Answers of `POST /v1/responses`: OpenAI's response object and stream events. The edge imports only types. */
import * as z from "zod";
import { functionCallSchema } from "./called-functions.ts";
import { chameleonBlockSchema, chatTokenSchema, unixSeconds } from "./responses.ts";

const citationSchema = z
  .object({ type: z.literal("file_citation"), file_id: z.string(), filename: z.string(), index: z.int() })
  .describe("A document with a passage in the prompt: `filename` is its name, `file_id` is ADAPTER/NAME");
const outputTextSchema = z.object({
  type: z.literal("output_text"),
  text: z.string(),
  annotations: z.array(citationSchema),
  logprobs: z.array(chatTokenSchema).describe("Where the request asks for them; in a stream only the deltas have them"),
});
const messageSchema = z.object({
  type: z.literal("message"),
  id: z.string(),
  status: z.enum(["in_progress", "completed", "incomplete"]),
  role: z.literal("assistant"),
  content: z.array(outputTextSchema),
});
const searchCallSchema = z.object({
  type: z.literal("file_search_call"),
  id: z.string(),
  status: z.enum(["in_progress", "completed"]),
  queries: z.array(z.string()).describe("The last message of the user"),
  results: z.null().describe("`annotations` and `chameleon.retrieved` tell the passages"),
});
const storeNames = z.array(z.string());
const toolSchema = z.discriminatedUnion("type", [
  z.object({ type: z.literal("file_search"), vector_store_ids: storeNames, max_num_results: z.int() }),
  z.object({
    ...{ type: z.literal("function"), name: z.string(), description: z.string().nullable() },
    ...{ parameters: z.record(z.string(), z.unknown()), strict: z.boolean() },
  }),
]);
const formatSchema = z.object({ type: z.enum(["text", "json_object"]) });
const jsonSchemaSchema = z.object({
  ...{
    type: z.literal("json_schema"),
    name: z.string(),
    schema: z.record(z.string(), z.unknown()),
    strict: z.boolean(),
  },
});
const itemSchema = z.discriminatedUnion("type", [messageSchema, searchCallSchema, functionCallSchema]);

export const responseSchema = z.object({
  id: z.string(),
  object: z.literal("response"),
  created_at: unixSeconds,
  status: z.enum(["in_progress", "completed", "incomplete", "failed"]),
  access_programs: z.null(),
  background: z.literal(false),
  error: z.object({ code: z.enum(["server_error", "rate_limit_exceeded"]), message: z.string() }).nullable(),
  incomplete_details: z.object({ reason: z.literal("max_output_tokens") }).nullable(),
  instructions: z.string().nullable(),
  max_output_tokens: z.int().nullable(),
  metadata: z.record(z.string(), z.string()),
  model: z.string().describe("What answered: of an alias, the model that it stands for"),
  output: z.array(itemSchema),
  parallel_tool_calls: z.boolean(),
  previous_response_id: z.null(),
  reasoning: z.object({ effort: z.null(), summary: z.null() }),
  store: z.literal(false).describe("Nothing is stored, whatever the request says"),
  system_fingerprint: z.string().describe("Changes when the artifacts do, and so may the text of a seed"),
  temperature: z.number(),
  text: z.object({ format: z.union([formatSchema, jsonSchemaSchema]) }),
  tool_choice: z.union([
    z.enum(["auto", "none", "required"]),
    z.object({ type: z.literal("function"), name: z.string() }),
  ]),
  tools: z.array(toolSchema),
  top_logprobs: z.int(),
  top_p: z.number(),
  truncation: z.literal("disabled"),
  usage: z
    .object({
      input_tokens: z.int(),
      input_tokens_details: z.object({ cached_tokens: z.int(), cache_write_tokens: z.literal(0) }),
      output_tokens: z.int(),
      output_tokens_details: z.object({ reasoning_tokens: z.literal(0) }),
      total_tokens: z.int(),
    })
    .nullable(),
  chameleon: chameleonBlockSchema.optional(),
});

const inItem = { item_id: z.string(), output_index: z.int() };
const inPart = { ...inItem, content_index: z.literal(0) };
const event = <T extends string, F extends z.ZodRawShape>(type: T | readonly T[], fields: F) =>
  z.object({ type: z.enum([type].flat() as T[]), sequence_number: z.int(), ...fields });

export const responseEventSchema = z
  .union([
    event(
      ["response.created", "response.in_progress", "response.completed", "response.incomplete", "response.failed"],
      { response: responseSchema },
    ),
    event(["response.output_item.added", "response.output_item.done"], { output_index: z.int(), item: itemSchema }),
    event(["response.content_part.added", "response.content_part.done"], { ...inPart, part: outputTextSchema }),
    event("response.output_text.delta", {
      ...inPart,
      delta: z.string(),
      logprobs: z.array(chatTokenSchema),
      chameleon: chameleonBlockSchema.partial().optional(),
    }),
    event("response.function_call_arguments.delta", { ...inItem, delta: z.string() }),
    event("response.function_call_arguments.done", { ...inItem, name: z.string(), arguments: z.string() }),
    event("response.output_text.annotation.added", {
      ...inPart,
      annotation_index: z.int(),
      annotation: citationSchema,
    }),
    event("response.output_text.done", { ...inPart, text: z.string(), logprobs: z.array(z.never()) }),
    event(
      [
        "response.file_search_call.in_progress",
        "response.file_search_call.searching",
        "response.file_search_call.completed",
      ],
      inItem,
    ),
  ])
  .describe("Events of a stream; a failed one has an `error` before `response.failed`");

export type ResponseObject = z.infer<typeof responseSchema>;
export type ResponseEvent = z.infer<typeof responseEventSchema>;
export type ResponseItem = z.infer<typeof itemSchema>;
export type Citation = z.infer<typeof citationSchema>;
/** Fields of a request that the response repeats. `query`: text to search for in the caller's documents. */
export type ResponseSettings = Pick<
  ResponseObject,
  | "instructions"
  | "max_output_tokens"
  | "metadata"
  | "parallel_tool_calls"
  | "temperature"
  | "text"
  | "tool_choice"
  | "tools"
  | "top_logprobs"
  | "top_p"
> & { query: string | null };
