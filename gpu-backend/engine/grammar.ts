/**
 * The grammar of the texts that the form of a JSON Schema admits (shared/contracts/json-schema.ts), in the EBNF of XGrammar. Texts are
 * JSON in one line with a space after each comma and colon, as Python's `json.dumps` writes it, so white space cannot go on without
 * end; nor can the digits of a number. Characters are written as themselves or by an escape of one letter. Pure.
 */

interface Form {
  $ref?: string;
  anyOf?: Form[];
  enum?: unknown[];
  type?: string;
  minimum?: number;
  maximum?: number;
  minLength?: number;
  maxLength?: number;
  items?: Form | false;
  prefixItems?: Form[];
  minItems?: number;
  maxItems?: number;
  properties?: Record<string, Form>;
  required?: string[];
  additionalProperties?: Form | false;
}

const shared = String.raw`
value ::= members | entries | string | number | "true" | "false" | "null"
members ::= "{" (string ": " value (", " string ": " value)*)? "}"
entries ::= "[" (value (", " value)*)? "]"
string ::= "\"" rest
rest ::= "\"" | [^\x00-\x1f"\\] rest | "\\" ["\\/bfnrt] rest
integer ::= "0" | "-"? [1-9] [0-9]{0,14}
number ::= "-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?
`;

/** One of a string of bounded length; with escapes beside it a bound takes seconds to compile. */
const character = String.raw`[^\x00-\x1f"\\]`;

/** The grammar of a form as `schemaForm` returns it. */
export function grammarOf(form: string): string {
  const { $ref, $defs = {}, ...root } = JSON.parse(form) as Form & { $defs?: Record<string, Form> };
  const rules = new Rules();
  for (const [name, definition] of Object.entries($defs)) rules.add(name, rules.of(definition));
  rules.add("root", rules.of({ ...($ref !== undefined && { $ref }), ...root }));
  return `${rules.text}${shared}`;
}

class Rules {
  text = "";
  #names = 0;

  add(name: string, expression: string): void {
    this.text += `${name} ::= ${expression}\n`;
  }

  of(form: Form): string {
    if (form.$ref !== undefined) return form.$ref.slice("#/$defs/".length);
    if (form.anyOf) return anyOf(form.anyOf.map((one) => this.of(one)));
    if (form.enum) return anyOf(form.enum.map((value) => literal(JSON.stringify(value))));
    switch (form.type) {
      case undefined:
        return "value";
      case "null":
        return `"null"`;
      case "boolean":
        return `("true" | "false")`;
      case "integer":
        return form.minimum === undefined && form.maximum === undefined ? "integer" : integersFrom(form);
      case "string": {
        const { minLength = 0, maxLength = "" } = form;
        if (minLength === 0 && maxLength === "") return "string";
        return `("\\"" ${character}{${minLength},${maxLength}} "\\"")`;
      }
      case "array":
        return this.#array(form);
      case "object":
        return this.#object(form);
      default:
        return form.type;
    }
  }

  #named(expression: string): string {
    const name = `part${this.#names++}`;
    this.add(name, expression);
    return name;
  }

  #array({ items, prefixItems, minItems = 0, maxItems }: Form): string {
    if (prefixItems) return `("[" ${prefixItems.map((one) => this.of(one)).join(` ", " `)} "]")`;
    const item = this.of(items || {});
    const more = `(", " ${item}){${Math.max(0, minItems - 1)},${maxItems === undefined ? "" : maxItems - 1}}`;
    return minItems > 0 ? `("[" ${item} ${more} "]")` : `("[" (${item} ${more})? "]")`;
  }

  /** Properties in the schema's order. Which are left out is chosen one by one: each rule has what may follow those before it. */
  #object({ properties, required = [], additionalProperties }: Form): string {
    if (!properties) {
      const member = `string ": " ${this.of(additionalProperties || {})}`;
      return `("{" (${member} (", " ${member})*)? "}")`;
    }
    const members = Object.entries(properties).map(([name, form]) => ({
      text: `${literal(`${JSON.stringify(name)}: `)} ${this.of(form)}`,
      isRequired: required.includes(name),
    }));
    // A tail follows a member, a head is the first member with what follows. Rules of their own, as XGrammar's stack is small.
    let [tail, head] = [`""`, `""`];
    for (const { text, isRequired } of members.reverse()) {
      const after = this.#named(tail);
      const first = `${text} ${after}`;
      head = isRequired ? first : this.#named(`${first} | ${head}`);
      tail = isRequired ? `", " ${text} ${after}` : `(", " ${text})? ${after}`;
    }
    return `("{" ${head} "}")`;
  }
}

function anyOf(expressions: readonly string[]): string {
  return `(${expressions.join(" | ")})`;
}

/** A text as a string of the grammar. */
function literal(text: string): string {
  const escaped = Array.from(text, (character) => {
    const code = character.codePointAt(0)!;
    if (character === '"' || character === "\\") return `\\${character}`;
    return code >= 0x20 && code < 0x7f ? character : `\\U${code.toString(16).padStart(8, "0")}`;
  });
  return `"${escaped.join("")}"`;
}

/** Where one bound is absent, the other is usually nearer to 0 than this. */
const largest = 10 ** 15 - 1;

function integersFrom({ minimum, maximum }: Form): string {
  const [low, high] = [
    minimum ?? (maximum! < -largest ? -Number.MAX_SAFE_INTEGER : -largest),
    maximum ?? (minimum! > largest ? Number.MAX_SAFE_INTEGER : largest),
  ];
  const ranges: string[] = [];
  if (low < 0) {
    for (const range of digitsBetween(Math.max(1, -high), -low)) ranges.push(`"-" ${range}`);
  }
  if (high >= 0) ranges.push(...digitsBetween(Math.max(0, low), high));
  return anyOf(ranges);
}

/** Patterns of the numbers from `low` to `high`, both at least 0, split where the digits at one place are a range and all after it are free. */
function digitsBetween(low: number, high: number): string[] {
  const patterns: string[] = [];
  for (let from = BigInt(low); from <= BigInt(high); ) {
    let [free, size] = [0, 1n];
    // The largest block of 10^free numbers that begins at `from`, has one first part and ends by `high`.
    while (from > 0n && from % (size * 10n) === 0n && from + size * 10n - 1n <= BigInt(high))
      [free, size] = [free + 1, size * 10n];
    const first = from / size;
    const left = (BigInt(high) - from + 1n) / size;
    const steps = 10n - (first % 10n) < left ? 10n - (first % 10n) : left;
    const digits = first.toString();
    const last = `${digits.slice(0, -1)}${(first + steps - 1n) % 10n}`;
    const prefix = digits.length > 1 ? `"${digits.slice(0, -1)}" ` : "";
    patterns.push(`${prefix}[${digits.at(-1)}-${last.at(-1)}]${free > 0 ? ` [0-9]{${free}}` : ""}`);
    from += steps * size;
  }
  return patterns;
}
