/** A Jinja template of an imported model, within the limits of template-limits.ts. */
import { BoundedInterpreter } from "./bounded-interpreter.ts";
import { Environment, parseTemplate, type SyntaxNode } from "./jinja.ts";
import { requireAtMost, TemplateLimitError, TemplateRefusal, templateLimits } from "./template-limits.ts";

const months = "January February March April May June July August September October November December".split(" ");

export class BoundedTemplate {
  readonly #program: SyntaxNode;

  constructor(source: string) {
    const { sourceCharacters, whitespaceRun } = templateLimits;
    if (source.length > sourceCharacters) {
      throw new TemplateLimitError(
        `the chat template has ${source.length} characters, the maximum is ${sourceCharacters}`,
      );
    }
    // A regular expression that finds runs may take quadratic time.
    for (let at = 0, run = 0; at < source.length; at++) {
      run = /\s/.test(source[at]) ? run + 1 : 0;
      if (run > whitespaceRun) {
        throw new TemplateLimitError(`the chat template has more than ${whitespaceRun} whitespace characters in a row`);
      }
    }
    this.#program = parseTemplate(source);
  }

  /** `nowMs`: the time for `strftime_now`, in UTC. Throws a TemplateLimitError, a TemplateRefusal or another Error. */
  render(variables: Record<string, unknown>, conversationCharacters: number, nowMs: number): string {
    const environment = new Environment();
    for (const [name, value] of Object.entries({ ...globals(nowMs), ...variables })) environment.set(name, value);
    const interpreter = new BoundedInterpreter(environment, conversationCharacters);
    try {
      return interpreter.evaluate(this.#program, environment).value as string;
    } catch (error) {
      // V8 throws a RangeError if a string is too long or the stack overflows.
      if (error instanceof RangeError) throw new TemplateLimitError(`the chat template goes too far: ${error.message}`);
      throw error;
    }
  }
}

/** Functions and constants that Transformers gives to chat templates. */
function globals(nowMs: number): Record<string, unknown> {
  return {
    ...{ true: true, false: false, none: null, True: true, False: false, None: null },
    range: (...bounds: unknown[]) => range(bounds),
    raise_exception: (message: unknown) => {
      throw new TemplateRefusal(String(message).slice(0, 200));
    },
    strftime_now: (format: unknown) => formatDate(String(format), new Date(nowMs)),
  };
}

function range(bounds: unknown[]): number[] {
  if (!bounds.every(Number.isSafeInteger)) throw new Error("range() takes integers");
  const numbers = bounds as number[];
  const [start, stop, step = 1] = numbers.length === 1 ? [0, numbers[0]] : numbers;
  if (stop === undefined || step === 0) throw new Error("range() takes a stop, and a step other than 0");
  const count = Math.max(0, Math.ceil((stop - start) / step));
  requireAtMost("list items", count, templateLimits.valueCharacters / templateLimits.itemCharacters);
  return Array.from({ length: count }, (_, i) => start + i * step);
}

/** Formats a date as Python's strftime does, with the directives in `fields`. */
function formatDate(format: string, date: Date): string {
  requireAtMost("characters of an argument", format.length, templateLimits.argumentCharacters);
  const two = (value: number) => String(value).padStart(2, "0");
  const month = months[date.getUTCMonth()];
  const fields: Record<string, string> = {
    ...{ "%Y": String(date.getUTCFullYear()), "%m": two(date.getUTCMonth() + 1), "%d": two(date.getUTCDate()) },
    ...{ "%B": month, "%b": month.slice(0, 3), "%H": two(date.getUTCHours()), "%M": two(date.getUTCMinutes()) },
    "%%": "%",
  };
  return format.replace(/%[YmdbBHM%]/g, (field) => fields[field]);
}
