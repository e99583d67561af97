/** A form is a simplified JSON Schema for which a grammar exists. Pure. */

export const kinds = ["null", "boolean", "integer", "number", "string", "array", "object"] as const;
export type Kind = (typeof kinds)[number];

/** A form without any field admits every value. */
export interface Form {
  /** Refers to a definition at the root: `#/$defs/NAME`. */
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
  /** true: an array has values of the enum `items`, each at most once and in the enum's order. */
  uniqueItems?: boolean;
  /** All properties that an object may have. Absent: any names that match `propertyNames`. */
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

/** True only if no value of `a` or `b` is valid by the schemas of both. A form in `narrow` admits fewer kinds than its schema. */
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

function formKinds(form: Form, narrow: WeakSet<Form>): string[] | null {
  if (narrow.has(form)) return null;
  const kindOf = (value: unknown) => (value === null ? "null" : Array.isArray(value) ? "array" : typeof value);
  if (form.enum) return form.enum.map(kindOf);
  if (form.type) return [form.type === "integer" ? "number" : form.type];
  if (!form.anyOf) return null;
  const all = form.anyOf.map((one) => formKinds(one, narrow));
  return all.every((kinds) => kinds !== null) ? all.flat() : null;
}
