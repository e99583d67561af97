/** The grammar of the texts that a form allows, in XGrammar's EBNF. Texts are JSON in one line, as Python's `json.dumps` writes it. */
import type { Form } from "../../shared/contracts/schema-form.ts";
import { type CallsForm, callFormat } from "../../shared/contracts/tools.ts";
import { GrammarFault, hex, patternRules } from "./pattern-rules.ts";

const shared = String.raw`
value ::= members | entries | string | number | "true" | "false" | "null"
members ::= "{" (string ": " value (", " string ": " value)*)? "}"
entries ::= "[" (value (", " value)*)? "]"
string ::= "\"" rest
rest ::= "\"" | character rest
character ::= [^\x00-\x1f"\\] | "\\" ["\\/bfnrt]
integer ::= "0" | "-"? [1-9] [0-9]{0,14}
number ::= "-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?
`;

const charactersAtMost = 2 ** 20;

type Root = Form & { $defs?: Record<string, Form> };

/** `form` is a result of `schemaForm` or `askedCalls`. Throws GrammarFault. */
export function grammarOf(form: string): string {
  const rules = new Rules();
  const parsed = JSON.parse(form) as Root | CallsForm;
  rules.add("root", "calls" in parsed ? callsOf(parsed, rules) : rules.ofRoot(parsed, ""));
  return `${rules.text}${shared}`;
}

/** Allows calls alone, calls after any text, or either calls or a text of another form. */
function callsOf({ text, calls, most }: CallsForm, rules: Rules): string {
  const { start, beforeName, beforeArguments, end } = callFormat;
  // All calls begin alike. The common beginning is written once, before the alternatives.
  const called = Object.entries(calls).map(
    ([name, form], i) => `${literal(name + beforeArguments)} ${rules.ofRoot(form, `f${i}_`)}`,
  );
  rules.add("call", `${literal(beforeName)} ${anyOf(called)} ${literal(end)}`);
  rules.add("calls", `call (${literal(`\n${start}`)} call){0,${most - 1}}`);
  if (text === "any") return `TagDispatch((${literal(start)}, calls), stop_eos=true, loop_after_dispatch=false)`;
  const root = `${literal(start)} calls`;
  return text === "none" ? root : `(${root} | ${rules.ofRoot(text, "t_")})`;
}

class Rules {
  text = "";
  /** Prefix of definitions' names, because two forms may have definitions of the same name. */
  #prefix = "";
  #names = 0;
  /** Names of the rules made by `#once`, by key. */
  readonly #known = new Map<string, string>();

  /** Adds the form's definitions. Returns the form's expression. */
  ofRoot({ $defs = {}, ...root }: Root, prefix: string): string {
    this.#prefix = prefix;
    for (const [name, definition] of Object.entries($defs)) this.add(prefix + name, this.of(definition));
    return this.of(root);
  }

  add(name: string, expression: string): void {
    this.#write(`${name} ::= ${expression}\n`);
  }

  #write(rules: string): void {
    this.text += rules;
    const { length } = this.text;
    if (length <= charactersAtMost) return;
    throw new GrammarFault(`its grammar has ${length} characters or more, the maximum is ${charactersAtMost}`);
  }

  of(form: Form): string {
    if (form.$ref !== undefined) return this.#prefix + form.$ref.slice("#/$defs/".length);
    if (form.anyOf) return anyOf(form.anyOf.map((one) => this.of(one)));
    if (form.enum) return anyOf(form.enum.map((value) => literal(spelled(value))));
    switch (form.type) {
      case undefined:
        return "value";
      case "null":
        return `"null"`;
      case "boolean":
        return `("true" | "false")`;
      case "integer":
        return form.minimum === undefined && form.maximum === undefined ? "integer" : integersFrom(form);
      case "string":
        return `("\\"" ${this.#charactersFrom(form)})`;
      case "array":
        return this.#named(this.#array(form));
      case "object":
        return this.#named(this.#object(form));
      default:
        return form.type;
    }
  }

  /** Equal expressions share a rule, which makes compilation faster. */
  #named(expression: string): string {
    return this.#once(expression, (name) => {
      this.add(name, expression);
      return name;
    });
  }

  #once(key: string, make: (name: string) => string): string {
    const known = this.#known.get(key) ?? make(`part${this.#names++}`);
    this.#known.set(key, known);
    return known;
  }

  /** The rule of a string after its first quote. XGrammar compiles `{n,m}` slowly, so each number of remaining characters has a rule. */
  #charactersFrom({ minLength = 0, maxLength, patterns }: Form): string {
    const isBounded = maxLength !== undefined;
    if (patterns) {
      const all = [...patterns, `^[^]{${minLength},${maxLength ?? ""}}$`];
      return this.#once(JSON.stringify(all), (name) => {
        const { text, start } = patternRules(all, name);
        this.#write(text);
        return start;
      });
    }
    let rest = isBounded ? `"\\""` : "rest";
    for (let left = 1; left <= (maxLength ?? minLength); left++) {
      const mayEnd = isBounded && left <= maxLength - minLength;
      rest = this.#named(`${mayEnd ? `"\\"" | ` : ""}character ${rest}`);
    }
    return rest;
  }

  #array({ prefixItems = [], items, minItems = 0, maxItems, uniqueItems }: Form): string {
    if (uniqueItems) return `("[" ${this.#chosen(items!.enum!, minItems, maxItems!, "")} "]")`;
    const first = prefixItems.map((one) => this.of(one)).join(` ", " `);
    if (!items) return `("[" ${first} "]")`;
    const item = this.of(items);
    const range = (from: number, taken: number) =>
      `{${Math.max(0, from - taken)},${maxItems === undefined ? "" : maxItems - taken}}`;
    const more = `(", " ${item})`;
    if (first) return `("[" ${first} ${more}${range(minItems, prefixItems.length)} "]")`;
    const all = `${item} ${more}${range(minItems, 1)}`;
    return minItems > 0 ? `("[" ${all} "]")` : `("[" (${all})? "]")`;
  }

  /** An array of `least` to `most` of the values, in their order. */
  #chosen(values: readonly unknown[], least: number, most: number, separator: string): string {
    if (most === 0 || values.length === 0) return `""`;
    const others = values.slice(1);
    return this.#once(JSON.stringify([values, least, most, separator]), () => {
      const next = this.#chosen(others, Math.max(0, least - 1), Math.min(most - 1, others.length), ", ");
      const taken = `${literal(separator + spelled(values[0]))} ${next}`;
      const left = () => this.#chosen(others, least, Math.min(most, others.length), separator);
      return this.#named(least > others.length ? taken : `${taken} | ${left()}`);
    });
  }

  /** Each rule is the object's text after one property. Optional properties may be skipped. */
  #object({ properties, required = [], propertyNames = {}, additionalProperties = {} }: Form): string {
    if (!properties) {
      const name = propertyNames.type || propertyNames.anyOf ? this.of(propertyNames) : "string";
      const member = `${name} ": " ${this.of(additionalProperties)}`;
      return `("{" (${member} (", " ${member})*)? "}")`;
    }
    const members = Object.entries(properties).map(([name, form]) => ({
      text: `${literal(`${JSON.stringify(name)}: `)} ${this.of(form)}`,
      isRequired: required.includes(name),
    }));
    // `head` begins with the object's first member, `tail` follows a member. XGrammar's stack is small, so both are named rules.
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

function spelled(value: unknown): string {
  const lines = JSON.stringify(value, null, 1);
  return lines
    .replace(/([[{])\n */g, "$1")
    .replace(/\n *([\]}])/g, "$1")
    .replace(/\n */g, " ");
}

function literal(text: string): string {
  const escaped = Array.from(text, (character) => {
    const code = character.codePointAt(0)!;
    if (character === '"' || character === "\\") return `\\${character}`;
    return code >= 0x20 && code < 0x7f ? character : hex(code);
  });
  return `"${escaped.join("")}"`;
}

/** Bound of integers for a schema without a bound. */
const largest = 10 ** 15 - 1;

function integersFrom({ minimum, maximum }: Form): string {
  const low = minimum ?? (maximum! < -largest ? -Number.MAX_SAFE_INTEGER : -largest);
  const high = maximum ?? (minimum! > largest ? Number.MAX_SAFE_INTEGER : largest);
  const negative = low < 0 ? digitsBetween(Math.max(1, -high), -low) : [];
  return anyOf([
    ...(negative.length > 0 ? [`"-" ${anyOf(negative)}`] : []),
    ...(high >= 0 ? digitsBetween(Math.max(0, low), high) : []),
  ]);
}

/** Numbers from `low` ≥ 0 to `high`. XGrammar 0.1.27 would allow wrong numbers if two alternatives began alike. */
function digitsBetween(low: number, high: number): string[] {
  const [least, most] = [String(low), String(high)];
  const between = (text: string) => low <= Number(text) && Number(text) <= high;
  /** What may follow the digits `first` in a number; null if no number begins with these digits. */
  const after = (first: string): string | null => {
    const { length } = first;
    if (!least.startsWith(first) && !most.startsWith(first)) {
      const fewest = Math.max(0, least.length - length + (first < least.slice(0, length) ? 1 : 0));
      const all = most.length - length - (first > most.slice(0, length) ? 1 : 0);
      if (fewest > all) return null;
      return all === 0 ? `""` : `[0-9]{${fewest},${all}}`;
    }
    const parts = [...(between(first) ? [`""`] : []), ...(length < most.length ? digits(first, 0) : [])];
    return parts.length > 0 ? anyOf(parts) : null;
  };
  /** Alternatives for the next digit, at least `from`. Neighbouring digits with equal continuations share an alternative. */
  const digits = (first: string, from: number): string[] => {
    const parts: string[] = [];
    const next = Array.from({ length: 10 }, (_, digit) => (digit < from ? null : after(`${first}${digit}`)));
    for (let digit = from; digit <= 9; digit++) {
      const start = digit;
      while (next[start] !== null && next[digit + 1] === next[start]) digit++;
      if (next[start] !== null) parts.push(`[${start}-${digit}] ${next[start]}`);
    }
    return parts;
  };
  return [...(low === 0 ? [`"0"`] : []), ...(high > 0 ? digits("", 1) : [])];
}
