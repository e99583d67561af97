/**
 * Converts a request's JSON Schema (2020-12, and the common part of draft 7) to a form: a simpler schema that a backend can make a grammar
 * of (schema-form.ts). The form admits only values that the schema admits, and sometimes fewer: an object with `properties` has no other
 * properties. Unsupported keywords are refused. Pure.
 */
import { describe } from "../describe.ts";
import { limits } from "./limits.ts";
import { areDisjoint, type Form, isObject, type Kind, kinds, textOf, unionOf } from "./schema-form.ts";
import {
  at,
  entriesOf,
  Fault,
  isAmong,
  isOf,
  lengths,
  listOf,
  numbers,
  type Part,
  partAt,
  type Schema,
  strings,
  typesOf,
  unescaped,
} from "./schema-keywords.ts";

export interface SchemaFault {
  pointer: string;
  fault: string;
}

const annotations = new Set(
  "$schema $id $comment $anchor $dynamicAnchor $defs definitions title description default examples deprecated readOnly writeOnly format discriminator contentMediaType contentEncoding contentSchema".split(
    " ",
  ),
);
const keywordsOf: Record<Kind, readonly string[]> = {
  null: [],
  boolean: [],
  integer: [],
  number: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  string: ["minLength", "maxLength", "pattern"],
  array: ["items", "prefixItems", "minItems", "maxItems", "uniqueItems"],
  object: ["properties", "required", "additionalProperties", "propertyNames"],
};
const assertions = new Set([...Object.values(keywordsOf), "$ref allOf anyOf oneOf type enum const".split(" ")].flat());

export const anyObject = JSON.stringify({ type: "object", additionalProperties: {} } satisfies Form);

export function schemaForm(schema: unknown): string | SchemaFault {
  const bytes = new TextEncoder().encode(JSON.stringify(schema)).length;
  if (bytes > limits.schemaBytes)
    return { pointer: "", fault: `has ${bytes} bytes, the maximum is ${limits.schemaBytes}` };
  const { $schema } = schema as Schema;
  if ($schema !== undefined && !/^https?:\/\/json-schema\.org\//.test(String($schema)))
    return { pointer: "/$schema", fault: `is ${describe($schema)}; only those of json-schema.org are supported` };
  try {
    return new FormReader(schema).read();
  } catch (thrown) {
    if (thrown instanceof Fault) return { pointer: thrown.pointer, fault: thrown.message };
    throw thrown;
  }
}

interface Place {
  depth: number;
  /** Reference to the definition whose value this schema describes; null inside a property or an entry. It serves to find loops. */
  within: string | null;
}

class FormReader {
  readonly #root: unknown;
  /** Reference in the schema → definition in the form. The form has its own names, because a schema's names may be any text. */
  readonly #definitions = new Map<string, { name: string; form: Form }>();
  /** Reference in the form → form of a completely read definition. */
  readonly #referredForms = new Map<string, Form>();
  /** Reference → references that describe the same value. A cycle is refused. */
  readonly #leads = new Map<string, Set<string>>();
  /** References that are in no cycle of `#leads`. */
  readonly #loopFree = new Set<string>();
  /** Forms that admit fewer kinds of values than their schemas. */
  readonly #narrow = new WeakSet<Form>();
  #schemas = 0;
  #values = 0;

  constructor(root: unknown) {
    this.#root = root;
  }

  read(): string {
    const root = this.#define("#", { schema: this.#root, pointer: "" }, 0);
    for (const [reference] of this.#leads) this.#refuseLoop(reference, []);
    const $defs = Object.fromEntries(this.#definitions.values().map(({ name, form }) => [name, form]));
    const text = JSON.stringify({ $ref: `#/$defs/${root}`, $defs });
    if (text.length <= limits.schemaFormCharacters) return text;
    throw new Fault("", `has a form of ${text.length} characters, the maximum is ${limits.schemaFormCharacters}`);
  }

  #define(reference: string, part: Part<unknown>, depth: number): string {
    const known = this.#definitions.get(reference);
    if (known) return known.name;
    const definition = { name: `d${this.#definitions.size}`, form: {} as Form };
    this.#definitions.set(reference, definition);
    definition.form = this.#form([part], { depth, within: reference });
    this.#referredForms.set(`#/$defs/${definition.name}`, definition.form);
    return definition.name;
  }

  #refuseLoop(reference: string, path: readonly string[]): void {
    if (this.#loopFree.has(reference)) return;
    if (path.includes(reference)) throw new Fault(reference.slice(1), "refers to itself and to nothing else");
    for (const next of this.#leads.get(reference) ?? []) this.#refuseLoop(next, [...path, reference]);
    this.#loopFree.add(reference);
  }

  #count(schemas: number, pointer: string): void {
    this.#schemas += schemas;
    if (this.#schemas > limits.schemaNodes)
      throw new Fault(pointer, `is one schema more than the maximum of ${limits.schemaNodes}`);
  }

  /** Returns the form of the values that all given schemas admit. */
  #form(given: readonly Part<unknown>[], place: Place): Form {
    const { depth, within } = place;
    if (depth > limits.schemaDepth)
      throw new Fault(given[0].pointer, `is ${depth} levels deep, the maximum is ${limits.schemaDepth}`);
    const stated = given.filter((one): one is Part => this.#keywords(one).length > 0);
    this.#count(Math.max(1, stated.length), given.at(-1)?.pointer ?? "");
    if (stated.length === 0) return {};
    if (stated.length === 1) {
      const [{ schema, pointer }] = stated;
      const [first, ...others] = this.#keywords(stated[0]);
      if (first === "$ref" && others.length === 0) {
        const { reference, target } = this.#referred(stated[0]);
        if (within !== null) this.#leads.set(within, (this.#leads.get(within) ?? new Set()).add(reference));
        return { $ref: `#/$defs/${this.#define(reference, target, depth)}` };
      }
      if (first === "allOf" && others.length === 0 && listOf(schema, "allOf", pointer).length === 1)
        return this.#form(entriesOf(schema, "allOf", pointer), place);
    }
    const parts: Part[] = [];
    for (const one of stated) this.#collect(one, parts, []);
    const united = parts.findIndex(({ schema }) => "anyOf" in schema || "oneOf" in schema);
    return united < 0 ? this.#plain(parts, place) : this.#union(parts, united, place);
  }

  /** Returns the keywords that restrict values. Throws a Fault for an unsupported keyword, or for a value that is no schema. */
  #keywords({ schema, pointer }: Part<unknown>): string[] {
    if (schema === true) return [];
    if (schema === false) throw new Fault(pointer, "is false, which admits nothing");
    if (!isObject(schema)) throw new Fault(pointer, `is ${describe(schema)}; it must be an object or a boolean`);
    const told = Object.keys(schema).filter((key) => !annotations.has(key) && !key.startsWith("x-"));
    const unknown = told.find((key) => !assertions.has(key));
    if (unknown !== undefined) throw new Fault(at(pointer, unknown), "is a keyword that is not supported");
    if (pointer !== "" && schema.$id !== undefined)
      throw new Fault(at(pointer, "$id"), "is supported at the root only");
    return told;
  }

  /** Adds a schema, and the schemas of its `allOf` and `$ref`, to `parts`. `path`: references that led here. */
  #collect(part: Part<unknown>, parts: Part[], path: readonly string[]): void {
    const told = this.#keywords(part);
    if (told.length === 0) return;
    const { allOf, $ref, ...schema } = Object.fromEntries(told.map((key) => [key, (part.schema as Schema)[key]]));
    parts.push({ schema, pointer: part.pointer });
    if (allOf !== undefined) {
      const entries = entriesOf({ allOf }, "allOf", part.pointer);
      this.#count(entries.length, part.pointer);
      for (const one of entries) this.#collect(one, parts, path);
    }
    if ($ref === undefined) return;
    this.#count(1, part.pointer);
    const { reference, target } = this.#referred(part as Part);
    if (path.includes(reference)) throw new Fault(reference.slice(1), "refers to itself and to nothing else");
    this.#collect(target, parts, [...path, reference]);
  }

  #referred({ schema, pointer }: Part): { reference: string; target: Part<unknown> } {
    const where = at(pointer, "$ref");
    const reference = schema.$ref;
    if (typeof reference !== "string" || !/^#(?:\/|$)/.test(reference))
      throw new Fault(where, `is ${describe(reference)}; it must be # or a JSON pointer after it`);
    let target: unknown = this.#root;
    const names = reference.split("/").slice(1).map(unescaped);
    for (const [i, name] of names.entries()) {
      const isThere = typeof target === "object" && target !== null && Object.hasOwn(target, name);
      if (!isThere) throw new Fault(where, `is ${describe(reference)}, which is not there`);
      if (i > 0 && Object.hasOwn(target as Schema, "$id")) throw new Fault(where, "leads through a schema with $id");
      target = (target as Schema)[name];
    }
    return { reference, target: { schema: target, pointer: names.reduce(at, "") } };
  }

  #union(parts: readonly Part[], united: number, { depth, within }: Place): Form {
    const { schema, pointer } = parts[united];
    const keyword = "anyOf" in schema ? "anyOf" : "oneOf";
    const { [keyword]: _, ...own } = schema;
    const rest = parts.with(united, { schema: own, pointer });
    const forms: Form[] = [];
    for (const branch of entriesOf(schema, keyword, pointer)) {
      if (branch.schema === false) {
        this.#count(1, branch.pointer);
        continue;
      }
      const form = this.#form([...rest, branch], { depth: depth + 1, within });
      if (keyword === "oneOf" && !forms.every((other) => this.#areDisjoint(form, other))) {
        const rule = "branches must differ in type, or in a required property that is a const or an enum";
        throw new Fault(branch.pointer, `may admit what a branch before it does, which is not supported: ${rule}`);
      }
      forms.push(form);
    }
    if (forms.length === 0) throw new Fault(at(pointer, keyword), "admits nothing");
    return unionOf(forms);
  }

  #areDisjoint(a: Form, b: Form): boolean {
    const referred = (form: Form) => this.#referredForms.get(form.$ref ?? "") ?? form;
    return areDisjoint(referred(a), referred(b), this.#narrow);
  }

  /** Returns the form of schemas without references and unions. */
  #plain(parts: readonly Part[], place: Place): Form {
    const listed = parts.filter(({ schema }) => "enum" in schema || "const" in schema);
    if (listed.length > 0) return this.#listed(parts, listed, place);
    let admitted: Kind[] | null = null;
    for (const { schema, pointer } of parts) {
      if (schema.type === undefined) continue;
      const types = typesOf(schema.type, pointer);
      admitted = admitted === null ? types : kinds.filter((kind) => isAmong(kind, admitted!) && isAmong(kind, types));
      if (admitted.length === 0) throw new Fault(at(pointer, "type"), "admits nothing beside the other types");
    }
    const isSpokenOf = (kind: Kind) => keywordsOf[kind].some((key) => parts.some(({ schema }) => key in schema));
    const wanted = (admitted ?? kinds.filter(isSpokenOf)).filter(
      (one, _, all) => one !== "integer" || !all.includes("number"),
    );
    if (wanted.length === 0) return {};
    const form = unionOf(wanted.map((kind) => this.#ofKind(kind, parts, place)));
    if (admitted === null) this.#narrow.add(form);
    return form;
  }

  /** Returns the form of schemas with `enum` or `const`. */
  #listed(parts: readonly Part[], listed: readonly Part[], place: Place): Form {
    const lists = listed.flatMap(({ schema, pointer }) => [
      ...("enum" in schema ? [listOf(schema, "enum", pointer)] : []),
      ...("const" in schema ? [[schema.const]] : []),
    ]);
    this.#values += lists.reduce((sum, values) => sum + values.length, 0);
    const { pointer } = listed[0];
    const keyword = "const" in listed[0].schema ? "const" : "enum";
    if (this.#values > limits.schemaValues)
      throw new Fault(
        at(pointer, keyword),
        `makes the values of all enums ${this.#values}, the maximum is ${limits.schemaValues}`,
      );
    const rest = parts.map(({ schema: { enum: _, const: __, ...schema }, pointer }) => ({ schema, pointer }));
    for (const one of rest) {
      const other = this.#keywords(one).find((key) => key !== "type");
      if (other !== undefined)
        throw new Fault(at(one.pointer, other), `stands beside ${keyword}, which is not supported`);
    }
    const plain = this.#plain(rest, place);
    const { anyOf = [plain] } = plain;
    const [first, ...others] = lists.map((values) => new Map(values.map((value) => [textOf(value), value])));
    const values = [...first].flatMap(([text, value]) =>
      others.every((other) => other.has(text)) && anyOf.some(({ type }) => type === undefined || isOf(value, type))
        ? [value]
        : [],
    );
    if (values.length === 0) throw new Fault(at(pointer, keyword), "admits nothing");
    return { enum: values };
  }

  #ofKind(kind: Kind, parts: readonly Part[], place: Place): Form {
    if (kind === "integer" || kind === "number") return numbers(kind, parts);
    if (kind === "array") return this.#array(parts, place);
    if (kind === "object") return this.#object(parts, place);
    return kind === "string" ? strings(parts) : { type: kind };
  }

  #array(parts: readonly Part[], { depth }: Place): Form {
    const { minItems = 0, maxItems = Infinity } = lengths(parts, ["minItems", "maxItems"], limits.schemaItems);
    const within = { depth: depth + 1, within: null };
    const prefixes = parts.map(({ schema, pointer }) =>
      "prefixItems" in schema ? entriesOf(schema, "prefixItems", pointer) : [],
    );
    const said = (i: number) =>
      parts.flatMap(({ schema, pointer }, p): Part<unknown>[] => {
        if (Array.isArray(schema.items))
          throw new Fault(at(pointer, "items"), "is a list, which is not supported; prefixItems is");
        if (i < prefixes[p].length) return [prefixes[p][i]];
        return "items" in schema ? [partAt(schema, "items", pointer)] : [];
      });
    const prefixItems: Form[] = [];
    const listed = Math.max(...prefixes.map(({ length }) => length));
    let most = maxItems;
    for (let i = 0; i < Math.min(most, listed); i++) {
      if (said(i).some(({ schema }) => schema === false)) most = i;
      else prefixItems.push(this.#form(said(i), within));
    }
    const rest = said(Infinity);
    // A schema without `items` admits any entries after `prefixItems`. The form admits such entries only if `minItems` needs them.
    const isOpen = listed === 0 || rest.length > 0 || listed < minItems;
    const hasMore = isOpen && listed < most && rest.every(({ schema }) => schema !== false);
    if (!hasMore) most = prefixItems.length;
    const least = Math.max(minItems, prefixItems.length);
    if (least > most) throw new Fault(parts[0].pointer, `admits no array: from ${least} entries to ${most}`);
    const form: Form = {
      ...{ type: "array", minItems: least },
      ...(listed > 0 && { prefixItems }),
      ...(hasMore && { items: this.#form(rest, within) }),
      ...(most < Infinity && { maxItems: most }),
    };
    const unique = parts.find(({ schema }) => schema.uniqueItems === true);
    return unique ? this.#unique(form, at(unique.pointer, "uniqueItems")) : form;
  }

  #unique(form: Form, pointer: string): Form {
    const { prefixItems = [], items, maxItems = Infinity, minItems = 0 } = form;
    if (maxItems <= 1) return form;
    const values = items?.type === "boolean" ? [false, true] : (items?.enum ?? []);
    const most = Math.min(maxItems, values.length);
    if (prefixItems.length > 0 || values.length === 0 || values.length * most > limits.schemaValues)
      throw new Fault(pointer, "is supported for entries of a short enum only");
    if (minItems > most) throw new Fault(pointer, `leaves ${most} entries, fewer than minItems: ${minItems}`);
    return { type: "array", items: { enum: values }, uniqueItems: true, minItems, maxItems: most };
  }

  #object(parts: readonly Part[], { depth }: Place): Form {
    const within = { depth: depth + 1, within: null };
    const said = (name: string | null) =>
      parts.flatMap(({ schema, pointer }): Part<unknown>[] => {
        const { properties } = schema as { properties?: Schema };
        if (name !== null && properties && Object.hasOwn(properties, name))
          return [partAt(properties, name, at(pointer, "properties"))];
        return "additionalProperties" in schema ? [partAt(schema, "additionalProperties", pointer)] : [];
      });
    const [names, wanted] = [new Set<string>(), new Set<string>()];
    const naming: Part<unknown>[] = [{ schema: { type: "string" }, pointer: parts[0].pointer }];
    for (const { schema, pointer } of parts) {
      const { properties = {}, required = [] } = schema;
      if (!isObject(properties)) throw new Fault(at(pointer, "properties"), "must be an object");
      if (!Array.isArray(required) || !required.every((name) => typeof name === "string"))
        throw new Fault(at(pointer, "required"), "must be a list of strings");
      for (const name of [...Object.keys(properties), ...required]) names.add(name);
      for (const name of required) wanted.add(name);
      if ("propertyNames" in schema) naming.push(partAt(schema, "propertyNames", pointer));
    }
    const propertyNames = naming.length > 1 ? this.#form(naming, within) : {};
    if (names.size === 0) for (const name of propertyNames.enum ?? []) names.add(name as string);
    const isFalse = (name: string | null) => said(name).some(({ schema }) => schema === false);
    const isNamed = (name: string) => propertyNames.enum?.includes(name) ?? true;
    const kept = [...names].filter((name) => wanted.has(name) || (!isFalse(name) && isNamed(name)));
    // Properties that are left out count, too, because each branch of a union reads them again.
    this.#schemas += names.size - kept.length;
    const { pointer } = parts[0];
    if (names.size === 0 && !isFalse(null))
      return { type: "object", propertyNames, additionalProperties: this.#form(said(null), within) };
    const areKnown = propertyNames.enum || Object.keys(propertyNames).every((key) => key === "type");
    if (!areKnown || ![...wanted].every(isNamed))
      throw new Fault(pointer, "has properties whose names propertyNames is not known to admit");
    const properties = Object.fromEntries(kept.map((name) => [name, this.#form(said(name), within)]));
    return { type: "object", properties, required: [...wanted] };
  }
}
