/** Reads single keywords of a JSON Schema, for json-schema.ts. Pure. */
import { describe } from "../describe.ts";
import { limits } from "./limits.ts";
import { type Form, isObject, type Kind, kinds } from "./schema-form.ts";

export type Schema = Record<string, unknown>;

export interface Part<Of = Schema> {
  schema: Of;
  pointer: string;
}

export class Fault extends Error {
  readonly pointer: string;
  constructor(pointer: string, fault: string) {
    super(fault);
    this.pointer = pointer;
  }
}

export function strings(parts: readonly Part[]): Form {
  const patterns = parts.flatMap(({ schema: { pattern }, pointer }) =>
    pattern === undefined ? [] : [supportedPattern(pattern, at(pointer, "pattern"))],
  );
  const bounds = lengths(parts, ["minLength", "maxLength"], limits.schemaStringCharacters);
  return { type: "string", ...bounds, ...(patterns.length > 0 && { patterns }) };
}

export function numbers(type: "integer" | "number", parts: readonly Part[]): Form {
  const bounds = (keyword: string): number[] =>
    parts.flatMap(({ schema: { [keyword]: value }, pointer }) => {
      if (value === undefined) return [];
      if (typeof value === "number" && Math.abs(value) <= Number.MAX_SAFE_INTEGER) return [value];
      const rule = "it must be a number of at most 2^53 - 1, of either sign";
      throw new Fault(at(pointer, keyword), `is ${describe(value)}; ${rule}`);
    });
  // A grammar cannot bound fractions, so a bounded number becomes an integer.
  const above = bounds("exclusiveMinimum").map((one) => Math.floor(one) + 1);
  const below = bounds("exclusiveMaximum").map((one) => Math.ceil(one) - 1);
  const minimum = Math.max(...bounds("minimum").map(Math.ceil), ...above);
  const maximum = Math.min(...bounds("maximum").map(Math.floor), ...below);
  const { pointer } = parts[0];
  if (minimum > maximum) throw new Fault(pointer, `admits no integer: from ${minimum} to ${maximum}`);
  const [isLeast, isMost] = [Number.isFinite(minimum), Number.isFinite(maximum)];
  if (!isLeast && !isMost) return { type };
  return { type: "integer", ...(isLeast && { minimum }), ...(isMost && { maximum }) };
}

export function at(pointer: string, key: string): string {
  return `${pointer}/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`;
}

export function partAt(schema: Schema, key: string, pointer: string): Part<unknown> {
  return { schema: schema[key], pointer: at(pointer, key) };
}

export function listOf(schema: Schema, key: string, pointer: string): unknown[] {
  const list = schema[key];
  if (Array.isArray(list) && list.length > 0) return list;
  throw new Fault(at(pointer, key), "must be a list of at least one entry");
}

export function entriesOf(schema: Schema, key: string, pointer: string): Part<unknown>[] {
  return listOf(schema, key, pointer).map((one, i) => ({ schema: one, pointer: `${at(pointer, key)}/${i}` }));
}

export function unescaped(name: string): string {
  try {
    return decodeURIComponent(name).replaceAll("~1", "/").replaceAll("~0", "~");
  } catch {
    return name;
  }
}

export function typesOf(type: unknown, pointer: string): Kind[] {
  const types: unknown[] = Array.isArray(type) ? type : [type];
  if (types.length > kinds.length)
    throw new Fault(at(pointer, "type"), `has ${types.length} types, the maximum is ${kinds.length}`);
  const isKind = (one: unknown): one is Kind => typeof one === "string" && (kinds as readonly string[]).includes(one);
  if (types.length === 0 || !types.every(isKind))
    throw new Fault(at(pointer, "type"), `is ${describe(type)}, which is no type`);
  const twice = types.find((one, i) => types.indexOf(one) < i);
  if (twice) throw new Fault(at(pointer, "type"), `names ${twice} twice`);
  return types;
}

export function isOf(value: unknown, kind: Kind): boolean {
  if (kind === "integer") return Number.isInteger(value);
  if (kind === "array") return Array.isArray(value);
  if (kind === "null") return value === null;
  return kind === "object" ? isObject(value) : typeof value === kind;
}

export function isAmong(kind: Kind, types: readonly Kind[]): boolean {
  return types.includes(kind) || (kind === "integer" && types.includes("number"));
}

/** Returns the pattern if it is supported. Does not run the pattern, because a run could take forever. */
function supportedPattern(pattern: unknown, pointer: string): string {
  if (typeof pattern !== "string") throw new Fault(pointer, "must be a string");
  try {
    new RegExp(pattern, "u");
  } catch (thrown) {
    throw new Fault(pointer, `is no regular expression: ${(thrown as Error).message.slice(0, 200)}`);
  }
  const bare = pattern.replace(/\\[^bBk1-9]|\[(?:\\.|[^\\\]])*\]/gs, "");
  if (/\\|\(\?<[=!]/.test(bare))
    throw new Fault(pointer, "has \\b, \\B, a back reference or a lookbehind, which are not supported");
  return pattern;
}

/** Strictest bounds of the keywords `least` and `most`. `max` caps the upper bound. A lower bound above `max` is refused. */
export function lengths(
  parts: readonly Part[],
  [least, most]: readonly [string, string],
  max: number,
): Record<string, number> {
  const found: Record<string, number> = {};
  for (const { schema, pointer } of parts) {
    for (const keyword of [least, most]) {
      const value = schema[keyword];
      if (value === undefined) continue;
      if (!Number.isInteger(value) || (value as number) < 0)
        throw new Fault(at(pointer, keyword), "must be an integer from 0");
      const length = value as number;
      if (keyword === least && length > max)
        throw new Fault(at(pointer, keyword), `is ${length}, the maximum is ${max}`);
      found[keyword] =
        keyword === least ? Math.max(found[keyword] ?? 0, length) : Math.min(found[keyword] ?? max, length);
    }
    if (found[least] > found[most])
      throw new Fault(at(pointer, least), `is ${found[least]}, above ${most}: ${found[most]}`);
  }
  return found;
}
