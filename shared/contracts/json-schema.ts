/**
 * A request's JSON Schema (2020-12, and what draft 7 has in common with it), brought into the part of the language that answers are
 * held to: a form in which every schema says in one way what it admits. What it admits, the request's schema admits; where that leaves
 * a choice, the form takes the plainer part: an object with `properties` has no others, an array with `prefixItems` has exactly these.
 * Annotations are dropped. A keyword that would assert more is refused. Pure. Not here: how a text is held to the form (the backend's).
 */
import { describe } from "../describe.ts";
import { limits } from "./limits.ts";

/** What is wrong with a schema, and the JSON pointer of the place. */
export interface SchemaFault {
  pointer: string;
  fault: string;
}

type Schema = Record<string, unknown>;
type Kind = "null" | "boolean" | "integer" | "number" | "string" | "array" | "object";

const annotations = new Set(
  "$schema $id $comment title description default examples deprecated readOnly writeOnly format contentMediaType contentEncoding contentSchema".split(
    " ",
  ),
);
/** Keywords that say something of values of one kind. */
const keywordsOf: Record<Kind, readonly string[]> = {
  null: [],
  boolean: [],
  integer: [],
  number: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  string: ["minLength", "maxLength"],
  array: ["items", "prefixItems", "minItems", "maxItems"],
  object: ["properties", "required", "additionalProperties"],
};
const assertions = new Set([
  ...Object.values(keywordsOf).flat(),
  "type",
  "enum",
  "const",
  "anyOf",
  "oneOf",
  "allOf",
  "$ref",
]);

/** Any object: the form of `json_object`. */
export const anyObject = JSON.stringify({ type: "object", additionalProperties: {} });

/** The form of a schema as JSON, or the first fault that is found. */
export function schemaForm(schema: unknown): string | SchemaFault {
  const bytes = new TextEncoder().encode(JSON.stringify(schema)).length;
  if (bytes > limits.schemaBytes)
    return { pointer: "", fault: `has ${bytes} bytes, the maximum is ${limits.schemaBytes}` };
  try {
    return new FormReader(schema).read();
  } catch (thrown) {
    if (thrown instanceof Fault) return thrown.fault;
    throw thrown;
  }
}

class Fault extends Error {
  readonly fault: SchemaFault;
  constructor(pointer: string, fault: string) {
    super(fault);
    this.fault = { pointer, fault };
  }
}

/** Where a schema stands. */
interface Place {
  pointer: string;
  depth: number;
  /** The definition of which an instance may begin and end with this schema's; null after a property or an entry. */
  within: string | null;
}

class FormReader {
  readonly #root: unknown;
  /** Forms of the definitions that are referred to, by reference. The names of definitions may be any text, those of forms are not. */
  readonly #definitions = new Map<string, { name: string; form: unknown }>();
  /** Definitions whose instances are those of another, by reference. */
  readonly #leads = new Map<string, Set<string>>();
  #schemas = 0;
  #values = 0;

  constructor(root: unknown) {
    this.#root = root;
  }

  read(): string {
    const root = this.#define("#", this.#root, "", 0);
    for (const [reference] of this.#leads) this.#refuseLoop(reference, []);
    const $defs = Object.fromEntries(this.#definitions.values().map(({ name, form }) => [name, form]));
    const text = JSON.stringify({ $ref: `#/$defs/${root}`, $defs });
    if (text.length <= limits.schemaFormCharacters) return text;
    throw new Fault("", `has a form of ${text.length} characters, the maximum is ${limits.schemaFormCharacters}`);
  }

  /** Reads a definition once; returns its name in the form. */
  #define(reference: string, schema: unknown, pointer: string, depth: number): string {
    const known = this.#definitions.get(reference);
    if (known) return known.name;
    const definition = { name: `d${this.#definitions.size}`, form: {} as unknown };
    this.#definitions.set(reference, definition);
    definition.form = this.#form(schema, { pointer, depth, within: reference });
    return definition.name;
  }

  #refuseLoop(reference: string, path: readonly string[]): void {
    if (path.includes(reference)) throw new Fault(reference.slice(1), "refers to itself and to nothing else");
    for (const next of this.#leads.get(reference) ?? []) this.#refuseLoop(next, [...path, reference]);
  }

  #form(schema: unknown, place: Place): Schema {
    const { pointer, depth } = place;
    if (++this.#schemas > limits.schemaNodes)
      throw new Fault(pointer, `is one schema more than the maximum of ${limits.schemaNodes}`);
    if (depth > limits.schemaDepth)
      throw new Fault(pointer, `is ${depth} levels deep, the maximum is ${limits.schemaDepth}`);
    if (schema === true) return {};
    if (schema === false) throw new Fault(pointer, "is false, which admits nothing");
    if (!isSchema(schema)) throw new Fault(pointer, `is ${describe(schema)}; it must be an object or a boolean`);
    const isRoot = pointer === "";
    const said = Object.keys(schema).filter((key) => !annotations.has(key) && !key.startsWith("x-"));
    const told = said.filter((key) => !(isRoot && (key === "$defs" || key === "definitions")));
    const unknown = told.find((key) => !assertions.has(key));
    if (unknown !== undefined) throw new Fault(at(pointer, unknown), "is a keyword that is not supported");
    if (!isRoot && schema.$id !== undefined) throw new Fault(at(pointer, "$id"), "is supported at the root only");
    for (const keyword of ["$ref", "anyOf", "oneOf", "allOf"]) {
      if (!told.includes(keyword)) continue;
      const other = told.find((key) => key !== keyword);
      if (other !== undefined) throw new Fault(at(pointer, other), `stands beside ${keyword}, which is not supported`);
      return keyword === "$ref" ? this.#reference(schema.$ref, place) : this.#union(keyword, schema[keyword], place);
    }
    if (told.length === 0) return {};
    if (told.includes("enum") || told.includes("const")) return this.#listed(schema, told, place);
    return unionOf(kindsOf(schema, pointer).map((kind) => this.#ofKind(kind, schema, place)));
  }

  #reference(reference: unknown, { pointer, depth, within }: Place): Schema {
    const where = at(pointer, "$ref");
    const parts = typeof reference === "string" ? /^#(?:\/(\$defs|definitions)\/([^/]+))?$/.exec(reference) : null;
    if (!parts)
      throw new Fault(
        where,
        `is ${describe(reference)}; it must be # or name an entry of the root's $defs or definitions`,
      );
    const [, table, name] = parts;
    if (within !== null) this.#leads.set(within, (this.#leads.get(within) ?? new Set()).add(parts[0]));
    if (!table) return { $ref: `#/$defs/${this.#define("#", this.#root, "", 0)}` };
    const entries = (this.#root as Schema)[table];
    const key = unescaped(name);
    if (!isSchema(entries) || !Object.hasOwn(entries, key))
      throw new Fault(where, `is ${describe(reference)}, which is not there`);
    return { $ref: `#/$defs/${this.#define(parts[0], entries[key], at(at("", table), key), depth)}` };
  }

  #union(keyword: string, branches: unknown, { pointer, depth, within }: Place): Schema {
    const where = at(pointer, keyword);
    if (!Array.isArray(branches) || branches.length === 0)
      throw new Fault(where, "must be a list of at least one schema");
    if (keyword === "allOf" && branches.length > 1) throw new Fault(where, "with several schemas is not supported");
    const forms = branches.map((branch, i) =>
      this.#form(branch, { pointer: at(where, String(i)), depth: depth + 1, within }),
    );
    if (keyword === "oneOf") {
      const overlap = forms.findIndex((form, i) => forms.slice(0, i).some((other) => !areDisjoint(form, other)));
      if (overlap >= 0) {
        const rule = "branches must differ in type, or in a required property that is a const or an enum";
        throw new Fault(
          at(where, String(overlap)),
          `may admit what a branch before it does, which is not supported: ${rule}`,
        );
      }
    }
    return unionOf(forms);
  }

  /** `enum` and `const`, beside no other assertion than `type`. */
  #listed(schema: Schema, told: readonly string[], { pointer }: Place): Schema {
    const other = told.find((key) => !["enum", "const", "type"].includes(key));
    const keyword = told.includes("const") ? "const" : "enum";
    if (other !== undefined) throw new Fault(at(pointer, other), `stands beside ${keyword}, which is not supported`);
    if (told.includes("enum") && !Array.isArray(schema.enum)) throw new Fault(at(pointer, "enum"), "must be a list");
    const values = (schema.enum ?? [schema.const]) as unknown[];
    this.#values += values.length;
    if (this.#values > limits.schemaValues)
      throw new Fault(
        at(pointer, keyword),
        `makes the values of all enums ${this.#values}, the maximum is ${limits.schemaValues}`,
      );
    const types = schema.type === undefined ? null : typesOf(schema.type, pointer);
    const texts = values
      .filter((value) => types === null || types.some((type) => isOf(value, type)))
      .map((value) => JSON.stringify(value));
    const constant = JSON.stringify(schema.const);
    const admitted = [...new Set(texts)].filter((text) => constant === undefined || text === constant);
    if (admitted.length === 0) throw new Fault(at(pointer, keyword), "admits nothing");
    return { enum: admitted.map((text): unknown => JSON.parse(text)) };
  }

  #ofKind(kind: Kind, schema: Schema, place: Place): Schema {
    if (kind === "integer" || kind === "number") return numbers(kind, schema, place.pointer);
    if (kind === "string")
      return {
        type: kind,
        ...lengths(schema, ["minLength", "maxLength"], limits.schemaStringCharacters, place.pointer),
      };
    if (kind === "array") return this.#array(schema, place);
    if (kind === "object") return this.#object(schema, place);
    return { type: kind };
  }

  #array(schema: Schema, { pointer, depth }: Place): Schema {
    const { minItems = 0, maxItems } = lengths(schema, ["minItems", "maxItems"], limits.schemaItems, pointer);
    const within = (key: string): Place => ({ pointer: at(pointer, key), depth: depth + 1, within: null });
    const { prefixItems, items = true } = schema;
    if (Array.isArray(items))
      throw new Fault(at(pointer, "items"), "is a list, which is not supported; prefixItems is");
    if (prefixItems !== undefined) {
      if (!Array.isArray(prefixItems) || prefixItems.length === 0)
        throw new Fault(at(pointer, "prefixItems"), "must be a list of at least one schema");
      if (minItems > prefixItems.length)
        throw new Fault(at(pointer, "minItems"), `is ${minItems}; beside prefixItems it must be at most their number`);
      const entries = prefixItems.slice(0, maxItems).map((one, i) => this.#form(one, within(`prefixItems/${i}`)));
      return entries.length === 0 ? { enum: [[]] } : { type: "array", prefixItems: entries, items: false };
    }
    if (items === false || maxItems === 0) {
      if (minItems > 0) throw new Fault(at(pointer, "minItems"), `is ${minItems}, and no entry is admitted`);
      return { enum: [[]] };
    }
    return {
      ...{ type: "array", items: this.#form(items, within("items")), minItems },
      ...(maxItems !== undefined && { maxItems }),
    };
  }

  #object(schema: Schema, { pointer, depth }: Place): Schema {
    const { properties = {}, required = [], additionalProperties = true } = schema;
    if (!isSchema(properties)) throw new Fault(at(pointer, "properties"), "must be an object");
    if (!Array.isArray(required) || !required.every((name) => typeof name === "string"))
      throw new Fault(at(pointer, "required"), "must be a list of strings");
    const wanted = new Set<string>(required);
    const names = [...new Set([...Object.keys(properties), ...wanted])];
    const place = (key: string, name?: string): Place => {
      const where = at(pointer, key);
      return { pointer: name === undefined ? where : at(where, name), depth: depth + 1, within: null };
    };
    const forms: [string, Schema][] = [];
    for (const name of names) {
      const isNamed = Object.hasOwn(properties, name);
      const one = isNamed ? properties[name] : additionalProperties;
      if (one === false && !wanted.has(name)) continue;
      forms.push([name, this.#form(one, isNamed ? place("properties", name) : place("additionalProperties"))]);
    }
    if (forms.length > 0) {
      return {
        type: "object",
        properties: Object.fromEntries(forms),
        required: [...wanted],
        additionalProperties: false,
      };
    }
    if (additionalProperties === false) return { enum: [{}] };
    return { type: "object", additionalProperties: this.#form(additionalProperties, place("additionalProperties")) };
  }
}

function isSchema(value: unknown): value is Schema {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function at(pointer: string, key: string): string {
  return `${pointer}/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`;
}

function unescaped(name: string): string {
  try {
    return decodeURIComponent(name).replaceAll("~1", "/").replaceAll("~0", "~");
  } catch {
    return name;
  }
}

function unionOf(forms: readonly Schema[]): Schema {
  return forms.length === 1 ? forms[0] : { anyOf: forms };
}

/** The kinds that a schema admits: of `type` or, without it, those that its keywords speak of. */
function kindsOf(schema: Schema, pointer: string): Kind[] {
  if (schema.type !== undefined) return typesOf(schema.type, pointer);
  const kinds = Object.keys(keywordsOf) as Kind[];
  return kinds.filter((kind) => keywordsOf[kind].some((keyword) => Object.hasOwn(schema, keyword)));
}

function typesOf(type: unknown, pointer: string): Kind[] {
  const types: unknown[] = Array.isArray(type) ? type : [type];
  const isKind = (one: unknown): one is Kind => typeof one === "string" && Object.hasOwn(keywordsOf, one);
  if (types.length === 0 || !types.every(isKind))
    throw new Fault(at(pointer, "type"), `is ${describe(type)}, which is no type`);
  return [...new Set(types)].filter((one) => one !== "integer" || !types.includes("number"));
}

function isOf(value: unknown, kind: Kind): boolean {
  if (kind === "integer") return Number.isInteger(value);
  if (kind === "array") return Array.isArray(value);
  if (kind === "null") return value === null;
  return kind === "object" ? isSchema(value) : typeof value === kind;
}

/** A least and a greatest length. */
function lengths(
  schema: Schema,
  [least, most]: readonly [string, string],
  max: number,
  pointer: string,
): Record<string, number> {
  const found: Record<string, number> = {};
  for (const keyword of [least, most]) {
    const value = schema[keyword];
    if (value === undefined) continue;
    if (!Number.isInteger(value) || (value as number) < 0)
      throw new Fault(at(pointer, keyword), "must be an integer from 0");
    if ((value as number) > max) throw new Fault(at(pointer, keyword), `is ${describe(value)}, the maximum is ${max}`);
    found[keyword] = value as number;
  }
  if (found[least] > found[most])
    throw new Fault(at(pointer, least), `is ${found[least]}, above ${most}: ${found[most]}`);
  return found;
}

function numbers(kind: "integer" | "number", schema: Schema, pointer: string): Schema {
  const bound = (keyword: string): number | undefined => {
    const value = schema[keyword];
    if (value === undefined) return undefined;
    if (typeof value === "number" && Math.abs(value) <= Number.MAX_SAFE_INTEGER) return value;
    throw new Fault(
      at(pointer, keyword),
      `is ${describe(value)}; it must be a number of at most 2^53 - 1, of either sign`,
    );
  };
  const [minimum, maximum] = [bound("minimum"), bound("maximum")];
  const [above, below] = [bound("exclusiveMinimum"), bound("exclusiveMaximum")];
  const isBounded = [minimum, maximum, above, below].some((one) => one !== undefined);
  if (!isBounded) return { type: kind };
  // Of numbers with bounds only the integers within them are taken: the others have no greatest number of digits.
  const least = Math.max(Math.ceil(minimum ?? -Infinity), Math.floor(above ?? -Infinity) + 1);
  const most = Math.min(Math.floor(maximum ?? Infinity), Math.ceil(below ?? Infinity) - 1);
  if (least > most) throw new Fault(pointer, `admits no integer: from ${least} to ${most}`);
  return {
    type: "integer",
    ...(Number.isFinite(least) && { minimum: least }),
    ...(Number.isFinite(most) && { maximum: most }),
  };
}

/** Whether nothing can be admitted by both forms. */
function areDisjoint(a: Schema, b: Schema): boolean {
  const [kindsA, kindsB] = [formKinds(a), formKinds(b)];
  if (kindsA && kindsB && !kindsA.some((kind) => kindsB.includes(kind))) return true;
  if (Array.isArray(a.enum) && Array.isArray(b.enum)) return areApart(a.enum, b.enum);
  if (!isSchema(a.properties) || !isSchema(b.properties)) return false;
  const [of, other] = [a.properties, b.properties];
  const required = (form: Schema, name: string) => (form.required as string[]).includes(name);
  return Object.keys(of).some((name) => {
    const [one, two] = [of[name] as Schema, Object.hasOwn(other, name) ? (other[name] as Schema) : {}];
    const areListed = Array.isArray(one.enum) && Array.isArray(two.enum);
    return (
      areListed && required(a, name) && required(b, name) && areApart(one.enum as unknown[], two.enum as unknown[])
    );
  });
}

function areApart(a: readonly unknown[], b: readonly unknown[]): boolean {
  const texts = new Set(a.map((value) => JSON.stringify(value)));
  return b.every((value) => !texts.has(JSON.stringify(value)));
}

/** Kinds of a form's values; null where that is not plain. */
function formKinds(form: Schema): string[] | null {
  const kindOf = (value: unknown) => (value === null ? "null" : Array.isArray(value) ? "array" : typeof value);
  if (Array.isArray(form.enum)) return form.enum.map(kindOf);
  if (typeof form.type === "string") return [form.type === "integer" ? "number" : form.type];
  if (!Array.isArray(form.anyOf)) return null;
  const all = (form.anyOf as Schema[]).map(formKinds);
  return all.every((kinds) => kinds !== null) ? all.flat() : null;
}
