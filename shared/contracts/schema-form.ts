/** The form of a JSON Schema: a simpler schema that a grammar can express, and that admits no other values (json-schema.ts). Pure. */

export const kinds = ["null", "boolean", "integer", "number", "string", "array", "object"] as const;
export type Kind = (typeof kinds)[number];

/** A form without any field admits every value. */
export interface Form {
  /** `#/$defs/NAME`, a definition of the root. */
  $ref?: string;
  anyOf?: Form[];
  enum?: unknown[];
  type?: Kind;
  minimum?: number;
  maximum?: number;
  minLength?: number;
  maxLength?: number;
  /** Regular expressions with the flag `u`. Each must match somewhere in the text. */
  patterns?: string[];
  /** Forms of the first entries, all of which must be there. */
  prefixItems?: Form[];
  /** Form of further entries; absent: there are none. */
  items?: Form;
  minItems?: number;
  maxItems?: number;
  /** The values of `items`, an enum, come at most once each and in its order. */
  uniqueItems?: boolean;
  /** All properties. Absent: names by `propertyNames`, values by `additionalProperties`. */
  properties?: Record<string, Form>;
  required?: string[];
  propertyNames?: Form;
  additionalProperties?: Form;
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** JSON with sorted properties: equal values have equal texts. */
export function textOf(value: unknown): string {
  const ordered = (_: string, one: unknown) =>
    isObject(one) ? Object.fromEntries(Object.entries(one).sort(([a], [b]) => (a < b ? -1 : 1))) : one;
  return JSON.stringify(value, ordered);
}

export function unionOf(forms: Form[]): Form {
  return forms.length === 1 ? forms[0] : { anyOf: forms };
}

/** Whether it is certain that no value is valid by both schemas. It never is for `narrow` forms, whose schemas admit more kinds. */
export function areDisjoint(a: Form, b: Form, narrow: WeakSet<Form>): boolean {
  const [kindsA, kindsB] = [formKinds(a, narrow), formKinds(b, narrow)];
  if (kindsA && kindsB && !kindsA.some((kind) => kindsB.includes(kind))) return true;
  if (a.enum && b.enum) return !narrow.has(a) && !narrow.has(b) && areApart(a.enum, b.enum);
  return Object.entries(a.properties ?? {}).some(([name, one]) => {
    const other = b.properties && Object.hasOwn(b.properties, name) ? b.properties[name] : {};
    const areListed = one.enum && other.enum && !narrow.has(one) && !narrow.has(other);
    return areListed && a.required!.includes(name) && b.required!.includes(name) && areApart(one.enum!, other.enum!);
  });
}

function areApart(a: readonly unknown[], b: readonly unknown[]): boolean {
  const texts = new Set(a.map(textOf));
  return b.every((value) => !texts.has(textOf(value)));
}

/** Kinds of the values of a form's schema; null if they are not certain. */
function formKinds(form: Form, narrow: WeakSet<Form>): string[] | null {
  if (narrow.has(form)) return null;
  const kindOf = (value: unknown) => (value === null ? "null" : Array.isArray(value) ? "array" : typeof value);
  if (form.enum) return form.enum.map(kindOf);
  if (form.type) return [form.type === "integer" ? "number" : form.type];
  if (!form.anyOf) return null;
  const all = form.anyOf.map((one) => formKinds(one, narrow));
  return all.every((kinds) => kinds !== null) ? all.flat() : null;
}
