/** Schemas of fields that several public requests share. A null field counts as absent, as in OpenAI's API. */
import * as z from "zod";
import { describe } from "../describe.ts";
import { limits } from "./limits.ts";

export { describe };

/** A prompt of a request: text or token ids. */
export type Prompt = string | number[];

/**
 * Replaces null and absent by `fallback`, and adds it to the API document as the default if it is a scalar. Most fields of a request are
 * absent, so the default is outermost: zod then runs nothing else. Requests share the fallback, so it is frozen.
 */
export function absentAs<T extends z.ZodType, F>(schema: T, fallback: F, description: string) {
  const hasDefault = typeof fallback === "number" || typeof fallback === "boolean" || typeof fallback === "string";
  Object.freeze(fallback);
  return schema
    .nullable()
    .transform((value) => (value ?? fallback) as NonNullable<z.output<T>> | F)
    .default(() => fallback as never)
    .meta({ description, ...(hasDefault && { default: fallback }) });
}

/** `model`. */
export const modelField = (description: string) => absentAs(z.string().max(limits.modelCharacters), null, description);

/** `user`: its length is checked, its value is ignored. */
export const userField = absentAs(z.string().max(limits.userCharacters), null, "Ignored");

const metadataEntries = 16;
/** What a caller notes beside an object: OpenAI's `metadata`. */
export const metadataSchema = z
  .record(z.string().max(64), z.string().max(512))
  .meta({ maxProperties: metadataEntries })
  .refine((entries) => Object.keys(entries).length <= metadataEntries, {
    error: `metadata has more than ${metadataEntries} entries, the maximum`,
  });

/** A string, strings, token ids or lists of token ids; `maximum` limits the number of prompts. */
export function promptField(name: string, maximum: number, description: string) {
  return promptList(name, maximum).meta({ description, ...promptSchema(maximum) });
}

/** The same without what the API document says of it. */
export function promptList(name: string, maximum: number) {
  return z.unknown().transform((value, context) => readPromptList(value, context, name, maximum));
}

/** The JSON Schema of a prompt field for the API document; `readPromptList` checks more. */
export function promptSchema(maximum: number, isOptional = false) {
  const text = { type: "string", minLength: 1, maxLength: limits.bodyBytes };
  const ids = { type: "array", items: { type: "integer", minimum: 0 }, minItems: 1, maxItems: limits.bodyBytes };
  const several = (items: object) => ({ type: "array", items, minItems: 1, maxItems: maximum });
  const absent = isOptional ? [{ type: "null" }] : [];
  return { anyOf: [text, several(text), ids, several(ids), ...absent] };
}

/** A string, strings, token ids or lists of them, as a list of prompts. */
function readPromptList(value: unknown, context: z.RefinementCtx, name: string, maximum: number): Prompt[] {
  const refuse = refuser(context, value);
  if (typeof value !== "string" && !Array.isArray(value)) {
    return refuse(
      `${name} is ${kindOf(value)}; it must be a string, a list of strings, token ids or lists of token ids`,
    );
  }
  const prompts: unknown[] = typeof value === "string" || typeof value[0] === "number" ? [value] : value;
  if (prompts.length === 0) return refuse(`${name} is an empty list; at least one is needed`);
  if (prompts.length > maximum) return refuse(`${name} has ${prompts.length} entries, the maximum is ${maximum}`);
  const kind = typeof prompts[0];
  for (const [i, prompt] of prompts.entries()) {
    const at = prompts.length > 1 ? `${name}[${i}]` : name;
    if (typeof prompt !== kind)
      return refuse(`${at} is ${kindOf(prompt)}, ${name}[0] is ${kindOf(prompts[0])}; all must be alike`);
    if (typeof prompt !== "string" && !Array.isArray(prompt)) return refuse(`${at} is ${kindOf(prompt)}`);
    if (prompt.length === 0) return refuse(`${at} is empty; at least one token is needed`);
    if (typeof prompt === "string") continue;
    const bad = prompt.findIndex((id) => !isTokenId(id));
    if (bad >= 0) return refuse(`${at}[${bad}] is ${describe(prompt[bad])}; a token id is an integer from 0`);
  }
  return prompts as Prompt[];
}

/** Returns a function that adds an issue about `input` and ends the transform. */
export function refuser(context: z.RefinementCtx, input: unknown) {
  return (message: string, path: PropertyKey[] = []): never => {
    context.addIssue({ code: "custom", path, message, input });
    return z.NEVER;
  };
}

interface ListRule<T> {
  name: string;
  /** What a list holds, in the plural. */
  of: string;
  min?: number;
  max: number;
  isEntry(entry: unknown): entry is T;
  /** What an entry must be. */
  rule: string;
}

/** A list. Its length is checked before its entries: a schema of entries would make an issue of each bad one. */
export function listOf<T>({ name, of, min = 0, max, isEntry, rule }: ListRule<T>) {
  return z.unknown().transform((value, context): T[] => {
    const refuse = refuser(context, value);
    if (!Array.isArray(value)) return refuse(`${name} is ${kindOf(value)}; it must be a list of ${of}`);
    const list: unknown[] = value;
    if (list.length > max) return refuse(`${name} has ${list.length} entries, the maximum is ${max}`);
    if (list.length < min) return refuse(`${name} has ${list.length} entries, the minimum is ${min}`);
    const bad = list.findIndex((entry) => !isEntry(entry));
    return bad < 0 ? (list as T[]) : refuse(`${name}[${bad}] is ${describe(list[bad])}; ${rule}`);
  });
}

export const isString = (value: unknown): value is string => typeof value === "string";

export function isTokenId(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

export function kindOf(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  if (value === null || value === undefined) return "null";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}
