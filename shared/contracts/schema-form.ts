/**
 * The form of a JSON Schema: a plain schema whose texts a grammar can spell. Every form admits a part of what its schema does. Pure. Not
 * here: how a schema is read (json-schema.ts), and the grammar of a form (the backend's).
 */

export const kinds = ["null", "boolean", "integer", "number", "string", "array", "object"] as const;
export type Kind = (typeof kinds)[number];

/** Without any of these: every value. */
export interface Form {
  /** `#/$defs/NAME`, of the root's. */
  $ref?: string;
  anyOf?: Form[];
  enum?: unknown[];
  type?: Kind;
  minimum?: number;
  maximum?: number;
  minLength?: number;
  maxLength?: number;
  /** Each is found in the text, as `RegExp` with the flag `u` finds it. */
  patterns?: string[];
  /** The first entries; all of them come. */
  prefixItems?: Form[];
  /** The entries after them; absent: there are none. */
  items?: Form;
  minItems?: number;
  maxItems?: number;
  /** Of `items`, which is an enum: no value comes twice, and they come in its order. */
  uniqueItems?: boolean;
  /** Absent: names are as `propertyNames` says, and values as `additionalProperties`. */
  properties?: Record<string, Form>;
  required?: string[];
  propertyNames?: Form;
  additionalProperties?: Form;
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Equal for equal values, whatever the order of their properties. */
export function textOf(value: unknown): string {
  const ordered = (_: string, one: unknown) =>
    isObject(one) ? Object.fromEntries(Object.entries(one).sort(([a], [b]) => (a < b ? -1 : 1))) : one;
  return JSON.stringify(value, ordered);
}

export function unionOf(forms: Form[]): Form {
  return forms.length === 1 ? forms[0] : { anyOf: forms };
}

/**
 * Whether no value of one schema's form is admitted by the other's schema. `narrow` are forms whose schemas admit values of other kinds,
 * or of an enum, than they do.
 */
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

/** Kinds of a schema's values; null where that is not plain. */
function formKinds(form: Form, narrow: WeakSet<Form>): string[] | null {
  if (narrow.has(form)) return null;
  const kindOf = (value: unknown) => (value === null ? "null" : Array.isArray(value) ? "array" : typeof value);
  if (form.enum) return form.enum.map(kindOf);
  if (form.type) return [form.type === "integer" ? "number" : form.type];
  if (!form.anyOf) return null;
  const all = form.anyOf.map((one) => formKinds(one, narrow));
  return all.every((kinds) => kinds !== null) ? all.flat() : null;
}
