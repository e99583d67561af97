import * as z from "zod";

const json = z.string().describe("JSON, whole unless it was cut");

export const toolCallSchema = z.object({
  id: z.string(),
  type: z.literal("function"),
  function: z.object({ name: z.string(), arguments: json }),
});
export const toolCallDeltaSchema = z.object({
  index: z.int(),
  id: z.string().optional().describe("With `type` and the name in a call's first delta"),
  type: z.literal("function").optional(),
  function: z.object({ name: z.string().optional(), arguments: z.string() }),
});
export const functionCallSchema = z.object({
  type: z.literal("function_call"),
  id: z.string(),
  call_id: z.string().describe("What a `function_call_output` names"),
  status: z.enum(["in_progress", "completed", "incomplete"]),
  name: z.string(),
  arguments: json,
});
