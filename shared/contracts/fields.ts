/** Schemas of fields that several public requests have. A null field counts as absent, as in OpenAI's API. */
import * as z from "zod";
import { describe } from "../describe.ts";
import { limits } from "./limits.ts";

export { describe };

export type Prompt = string | number[];

/** A field that is `fallback` if null or absent. `fallback` is frozen, because requests share it. */
export function absentAs<T extends z.ZodType, F>(schema: T, fallback: F, description: string) {
  const hasDefault = typeof fallback === "number" || typeof fallback === "boolean" || typeof fallback === "string";
  Object.freeze(fallback);
  return schema
    .nullable()
    .transform((value) => (value ?? fallback) as NonNullable<z.output<T>> | F)
    .default(() => fallback as never)
    .meta({ description, ...(hasDefault && { default: fallback }) });
}

export const modelField = (description: string) => absentAs(z.string().max(limits.modelCharacters), null, description);

export const userField = absentAs(z.string().max(limits.userCharacters), null, "Ignored");

const metadataEntries = 16;
export const metadataSchema = z
  .record(z.string().max(64), z.string().max(512))
  .meta({ maxProperties: metadataEntries })
  .refine((entries) => Object.keys(entries).length <= metadataEntries, {
    error: `metadata has more than ${metadataEntries} entries, the maximum`,
  });

/** A field of up to `maximum` prompts. Each prompt is a string or a list of token ids. */
export function promptField(name: string, maximum: number) {
  const text = { type: "string", minLength: 1, maxLength: limits.bodyBytes };
  const ids = { type: "array", items: { type: "integer", minimum: 0 }, minItems: 1, maxItems: limits.bodyBytes };
  const several = (items: object) => ({ type: "array", items, minItems: 1, maxItems: maximum });
  return z
    .unknown()
    .transform((value, context) => readPrompts(value, context, name, maximum))
    .meta({ anyOf: [text, several(text), ids, several(ids)] });
}

function readPrompts(value: unknown, context: z.RefinementCtx, name: string, maximum: number): Prompt[] {
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

export function refuser(context: z.RefinementCtx, input: unknown) {
  return (message: string, path: PropertyKey[] = []): never => {
    context.addIssue({ code: "custom", path, message, input });
    return z.NEVER;
  };
}

/** A long list needs `unknown` entries, because zod makes an issue of each bad entry. */
export function listOf<T extends z.ZodType>(name: string, entry: T, { min = 0, max }: { min?: number; max: number }) {
  return z.preprocess((value, context) => {
    const refuse = refuser(context, value);
    if (!Array.isArray(value)) return refuse(`${name} is ${kindOf(value)}; it must be a list`);
    const { length } = value;
    if (length > max) return refuse(`${name} has ${length} entries, the maximum is ${max}`);
    if (length < min) return refuse(`${name} has ${length} entries, the minimum is ${min}`);
    return value as unknown;
  }, z.array(entry).min(min).max(max));
}

/** A field that is not supported and would change the answer. `why` tells what to do instead. */
export function refused(name: string, why: string, isHarmless: (value: unknown) => boolean = () => false) {
  return z
    .unknown()
    .refine((value) => (value ?? null) === null || isHarmless(value), { error: `${name} is set; ${why}` })
    .optional()
    .meta({ description: `Refused: ${why}` });
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
