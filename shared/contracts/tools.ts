/**
 * Functions that a model may call, as chats and responses name them, and the format in which a prompt tells them and an answer calls them:
 * that of Hermes, whatever the model's own chat template has for tools. The system message lists the functions as JSON in `<tools>`, a
 * call is `<tool_call>`, the user's turn after it has its result in `<tool_response>`. Pure. Not here: the grammar of calls (the
 * backend's), and how calls are read from an answer (edge/answer/call-reader.ts).
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

/** Its schema, and the form of the arguments (json-schema.ts). */
const parametersField = absentAs(
  z.looseObject({ type: z.literal("object") }).meta({ maxProperties: limits.schemaNodes }),
  // OpenAI: without parameters it takes none.
  { type: "object", properties: {}, additionalProperties: false } as { [key: string]: unknown; type: "object" },
  "JSON Schema of its arguments, an object; `API.md` tells the keywords",
).transform((schema, context) => {
  const form = schemaForm(schema);
  if (typeof form === "string") return { schema, form };
  return refuser(context, schema)(`parameters at ${describe(form.pointer)} ${form.fault}`);
});
/** Fields of a function: a chat has them in the tool's `function`, a response in the tool. */
export const functionFields = {
  name: functionName,
  description: absentAs(z.string().max(limits.bodyBytes), null, "What it does, for the model"),
  parameters: parametersField,
};
export type FunctionTool = z.output<z.ZodObject<typeof functionFields>>;

/** A list of tools. Its size is checked before its entries: a schema of entries would make an issue of each bad one. */
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

/** `named`: how the request names one tool. */
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

/** What stands around the name and the arguments of a call, whose JSON is in one line. */
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

/** The form of answers that may call functions. In its JSON `text` is first. */
export interface CallsForm {
  /** What may stand in place of a call, and before one if it is `any`: nothing, any text, or JSON of a form. */
  text: "none" | "any" | object;
  /** Forms of arguments by the function's name. */
  calls: Record<string, object>;
  /** Most calls of one answer. */
  most: number;
}

/** Whether a text that is held to `form` may call functions. */
export const hasCalls = (form: string | null | undefined): boolean => form?.startsWith('{"text":') === true;
/** Whether any text may stand in it. */
export const hasAnyText = (form: string | null | undefined): boolean => form?.startsWith('{"text":"any"') === true;

/** What a request with functions asks of the prompt and the answer. */
export interface AskedCalls {
  /** For the system message; null where no function may be called. */
  text: string | null;
  /** Of the answer; `format` where no function may be called. */
  form: string | null;
}

/** `format`: the form of a text that is no call, null for any. */
export function askedCalls(
  functions: readonly FunctionTool[],
  { choice, isParallel, format }: { choice: ToolChoice; isParallel: boolean; format: string | null },
): AskedCalls {
  if (functions.length === 0 || choice === "none") return { text: null, form: format };
  const callable = typeof choice === "string" ? functions : functions.filter(({ name }) => name === choice.name);
  const form: CallsForm = {
    text: choice !== "auto" ? "none" : format === null ? "any" : (JSON.parse(format) as object),
    calls: Object.fromEntries(callable.map((one) => [one.name, JSON.parse(one.parameters.form) as object])),
    most: isParallel && typeof choice === "string" ? limits.toolCalls : 1,
  };
  return { text: toolsText(functions), form: JSON.stringify(form) };
}

/** As the templates of Qwen 2.5 say it, which were trained on this format. */
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

/** What is wrong with fields that belong together, by name; null: nothing. */
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
