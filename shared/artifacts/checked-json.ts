/** Parses and checks untrusted JSON. Error messages are short. */
import type * as z from "zod";
import { describe } from "../describe.ts";

const reportedIssues = 3;
const reportedCharacters = 80;

/** `bounds.values` counts nested values, too. Throws an Error that names the invalid fields or the exceeded bound. */
export function parseChecked<T>(
  schema: z.ZodType<T>,
  text: string,
  what: string,
  bounds: { characters: number; values: number },
): T {
  if (text.length > bounds.characters) {
    throw new Error(`${what} has ${text.length} characters, the maximum is ${bounds.characters}`);
  }
  const json = parseJson(text, what);
  requireFewValues(json, what, bounds.values);
  return requireValid(schema, json, what);
}

/** Throws an Error that names `what`, and the first invalid fields with their values. */
export function requireValid<T>(schema: z.ZodType<T>, json: unknown, what: string): T {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const { issues } = parsed.error;
  const problems = issues.slice(0, reportedIssues).map(({ path, message }) => {
    const value = path.reduce<unknown>((at, key) => (at as Record<PropertyKey, unknown> | null)?.[key], json);
    const found = value === undefined ? "missing" : describe(value);
    return `${shortened(path.join(".") || "it")} is ${found}: ${shortened(message)}`;
  });
  if (issues.length > reportedIssues) problems.push(`and ${issues.length - reportedIssues} more`);
  throw new Error(`${what} is not valid: ${problems.join("; ")}`);
}

export function parseJson(text: string, what: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new Error(`${what} is not JSON: ${shortened((cause as Error).message)}`, { cause });
  }
}

/** Iterative, because nesting may be too deep for recursion. */
function requireFewValues(json: unknown, what: string, maxValues: number): void {
  const open = [json];
  let values = 1;
  while (open.length > 0) {
    const value = open.pop();
    if (typeof value !== "object" || value === null) continue;
    const inner = Object.values(value);
    values += inner.length;
    if (values > maxValues) throw new Error(`${what} has more than ${maxValues} values`);
    for (const one of inner) open.push(one);
  }
}

function shortened(text: string): string {
  return text.length > reportedCharacters ? `${text.slice(0, reportedCharacters)}…` : text;
}
