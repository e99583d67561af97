/**
 * Functions that a model may call: request fields, and their format in texts. The format is Hermes's, whatever the chat template supports.
 * The system message lists functions as JSON in `<tools>`. A call is in `<tool_call>`, its result in `<tool_response>`.
 * gpu-backend/engine/grammar.ts has the grammar. Pure.
 */
import * as z from "zod";
import { absentAs, describe, refuser } from "./fields.ts";
import { schemaForm } from "./json-schema.ts";
import { limits } from "./limits.ts";

const isFunction = z.literal("function");
const functionName = z
  .string()
  .min(1, { abort: true })
  .max(limits.toolNameCharacters, { abort: true })
  .regex(/^[A-Za-z0-9_-]+$/, {
    abort: true,
    error: ({ input }) => `the name ${describe(input)} has other characters than letters, digits, _ and -`,
  });
export const isFunctionName = (name: unknown): name is string => functionName.safeParse(name).success;

const parametersField = absentAs(
  z.looseObject({ type: z.literal("object") }).meta({ maxProperties: limits.schemaNodes }),
  // As at OpenAI, a function without `parameters` takes no arguments.
  { type: "object", properties: {}, additionalProperties: false } as { [key: string]: unknown; type: "object" },
  "JSON Schema of its arguments, an object; `API.md` tells the keywords",
).transform((schema, context) => {
  const form = schemaForm(schema);
  if (typeof form === "string") return { schema, form };
  return refuser(context, schema)(`parameters at ${describe(form.pointer)} ${form.fault}`);
});
/** In a chat, a tool has these fields in `function`; in a response, directly. */
export const functionFields = {
  name: functionName,
  description: absentAs(z.string().max(limits.bodyBytes), null, "What it does, for the model"),
  parameters: parametersField,
};
export type FunctionTool = z.output<z.ZodObject<typeof functionFields>>;

/** The number of tools and their bytes are checked first, because zod makes an issue of each bad entry. */
export const toolsField = <Tool extends z.ZodType>(tool: Tool, description: string) =>
  absentAs(
    z.preprocess((value, context) => {
      const { length: bytes } = new TextEncoder().encode(JSON.stringify(value));
      const count = Array.isArray(value) ? value.length : 0;
      const refuse = refuser(context, value);
      if (count > limits.tools) return refuse(`tools has ${count} entries, the maximum is ${limits.tools}`);
      return bytes > limits.toolsBytes
        ? refuse(`tools has ${bytes} bytes, the maximum is ${limits.toolsBytes}`)
        : (value as unknown);
    }, z.array(tool).max(limits.tools)),
    [] as z.output<Tool>[],
    description,
  );

export type ToolChoice = "none" | "auto" | "required" | { name: string };

/** `named`: schema of a choice that names a tool. */
export const toolChoiceField = <Named extends z.ZodType<ToolChoice>>(named: Named) =>
  absentAs(
    z.union([z.enum(["none", "auto", "required"]), named], {
      error: ({ input }) => {
        const { type = input } = (input ?? {}) as { type?: unknown };
        return `tool_choice is ${describe(type)}; it must be none, auto, required or a function by its name`;
      },
    }),
    "auto" as ToolChoice,
    "`auto`: text, or calls; `required`: calls; `none`: as without tools; or the one function that is called, once",
  );

export const toolFields = {
  tools: toolsField(
    z.object({ type: isFunction, function: z.object(functionFields) }).transform((tool) => tool.function),
    "Functions that the answer may call. The prompt lists them, and they count as its tokens",
  ),
  tool_choice: toolChoiceField(
    z
      .object({ type: isFunction, function: z.object({ name: functionName }) })
      .transform(({ function: { name } }) => ({ name })),
  ),
  parallel_tool_calls: absentAs(z.boolean(), true, `false: one call at most; else up to ${limits.toolCalls}`),
};

/** Texts around a call's name and arguments. Arguments are JSON in one line. */
export const callFormat = {
  start: "<tool_call>",
  beforeName: '\n{"name": "',
  beforeArguments: '", "arguments": ',
  end: "}\n</tool_call>",
} as const;

export function callText(name: string, argumentsText: string): string {
  const { start, beforeName, beforeArguments, end } = callFormat;
  return `${start}${beforeName}${name}${beforeArguments}${argumentsText}${end}`;
}

/** The form of answers that may call functions. `text` must be the first property, because `hasCalls` tests the beginning. */
export interface CallsForm {
  /** What may stand in place of calls: no text, any text, or JSON of the given form. Any text may also precede the first call. */
  text: "none" | "any" | object;
  calls: Record<string, object>;
  /** Maximum calls of one answer. */
  most: number;
}

export const hasCalls = (form: string | null | undefined): boolean => form?.startsWith('{"text":') === true;
/** True if texts of this form may hold function calls and any other text. */
export const hasAnyText = (form: string | null | undefined): boolean => form?.startsWith('{"text":"any"') === true;

/** Returns the answer's form, and a text for the system message or null. `format`: form of an answer without calls. */
export function askedCalls(
  functions: readonly FunctionTool[],
  { tool_choice: choice, parallel_tool_calls: isParallel }: { tool_choice: ToolChoice; parallel_tool_calls: boolean },
  format: string | null,
): { text: string | null; form: string | null } {
  if (functions.length === 0 || choice === "none") return { text: null, form: format };
  const callable = typeof choice === "string" ? functions : functions.filter(({ name }) => name === choice.name);
  const form: CallsForm = {
    text: choice !== "auto" ? "none" : format === null ? "any" : (JSON.parse(format) as object),
    calls: Object.fromEntries(callable.map((one) => [one.name, JSON.parse(one.parameters.form) as object])),
    most: isParallel && typeof choice === "string" ? limits.toolCalls : 1,
  };
  return { text: toolsText(functions), form: JSON.stringify(form) };
}

/** Uses the wording of Qwen 2.5's chat template, which Qwen was trained on. */
function toolsText(functions: readonly FunctionTool[]): string {
  const shown = functions.map(({ name, description, parameters: { schema } }) =>
    JSON.stringify({
      type: "function",
      function: { name, ...(description !== null && { description }), parameters: schema },
    }),
  );
  return `# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
${shown.join("\n")}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
${callText("<function-name>", "<args-json-object>").replace('"<function-name>"', "<function-name>")}`;
}

export function toolsFault(
  functions: readonly FunctionTool[],
  choice: ToolChoice,
  form: string | null,
): [field: string, fault: string] | null {
  if (typeof choice === "object" && !functions.some(({ name }) => name === choice.name))
    return ["tool_choice", `tool_choice names the function ${describe(choice.name)}, which is not in tools`];
  const twice = functions.find(({ name }, i) => functions.findIndex((one) => one.name === name) < i);
  if (twice) return ["tools", `tools has the function ${describe(twice.name)} twice`];
  if (choice === "required" && functions.length === 0)
    return ["tool_choice", "tool_choice is required, and tools has no function"];
  const characters = form?.length ?? 0;
  if (characters <= limits.schemaFormCharacters) return null;
  return [
    "tools",
    `tools have forms of ${characters} characters together, the maximum is ${limits.schemaFormCharacters}`,
  ];
}
