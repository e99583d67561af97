/** The form of a JSON Schema: a simpler schema, for which a grammar exists. It admits only values that the schema admits. Pure. */

export const kinds = ["null", "boolean", "integer", "number", "string", "array", "object"] as const;
export type Kind = (typeof kinds)[number];

/** A form without any field admits every value. */
export interface Form {
  /** A reference to a definition at the root, `#/$defs/NAME`. */
  $ref?: string;
  anyOf?: Form[];
  enum?: unknown[];
  type?: Kind;
  minimum?: number;
  maximum?: number;
  minLength?: number;
  maxLength?: number;
  /** Regular expressions with the flag `u`. Each must match somewhere in the string. */
  patterns?: string[];
  /** Forms of the first entries. An array must have all of these entries. */
  prefixItems?: Form[];
  /** Form of the entries after `prefixItems`; absent: there are no such entries. */
  items?: Form;
  minItems?: number;
  maxItems?: number;
  /** true: `items` is an enum, and an array has each of its values at most once, in the order of the enum. */
  uniqueItems?: boolean;
  /** All properties that an object may have. Absent: names are as `propertyNames`, values as `additionalProperties`. */
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

/** Whether certainly no value that `a` or `b` admits is valid by both their schemas. The schema of a form in `narrow` admits more kinds. */
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

/** Kinds of the values that a form's schema admits; null if the kinds are not certain. */
function formKinds(form: Form, narrow: WeakSet<Form>): string[] | null {
  if (narrow.has(form)) return null;
  const kindOf = (value: unknown) => (value === null ? "null" : Array.isArray(value) ? "array" : typeof value);
  if (form.enum) return form.enum.map(kindOf);
  if (form.type) return [form.type === "integer" ? "number" : form.type];
  if (!form.anyOf) return null;
  const all = form.anyOf.map((one) => formKinds(one, narrow));
  return all.every((kinds) => kinds !== null) ? all.flat() : null;
}
