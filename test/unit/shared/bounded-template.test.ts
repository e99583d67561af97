/** Templates that would run long or grow large are refused with the limit's name; published ones render as without bounds. */
import { Template } from "@huggingface/jinja";
import { describe, expect, test } from "vitest";
import type { ChatMessage } from "../../../shared/contracts/chat.ts";
import { limits } from "../../../shared/contracts/limits.ts";
import { BoundedTemplate } from "../../../shared/tokenizer/bounded-template.ts";
import { TemplateLimitError, TemplateRefusal, templateLimits } from "../../../shared/tokenizer/template-limits.ts";
import { chatTemplates } from "../../support/chat-templates.ts";

const nowMs = Date.UTC(2026, 0, 2, 3, 4);

function conversation(count: number, charactersEach: number, first: ChatMessage["role"] = "user"): ChatMessage[] {
  return Array.from({ length: count }, (_, i) => ({
    role: i === 0 ? first : (i % 2 === 0) === (first === "user") ? "user" : "assistant",
    content: `${i % 3 ? "" : "<think>so</think>"}${"né \r\n x".repeat(charactersEach / 8)}`,
  }));
}
function variablesOf(messages: ChatMessage[]): Record<string, unknown> {
  const marks = { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>", pad_token: "<pad>" };
  return { messages, add_generation_prompt: true, ...marks };
}
const charactersOf = (messages: ChatMessage[]) => messages.reduce((sum, { content }) => sum + content.length, 0);
function render(source: string, messages = conversation(1, 8)) {
  return new BoundedTemplate(source).render(variablesOf(messages), charactersOf(messages), nowMs);
}

/** The text that a template renders, or what `raised` makes of its error. The error of a limit is rethrown. */
function outcomeOf(run: () => string, raised: (error: Error) => string): string {
  try {
    return run();
  } catch (error) {
    if (error instanceof TemplateLimitError) throw error;
    return raised(error as Error);
  }
}

const most = limits.chatMessages;
/** The last three conversations are as large as a request may be. */
const conversations: [string, ChatMessage[]][] = [
  ["a message", conversation(1, 40)],
  ["nothing in it", [{ role: "user", content: "" }]],
  ["turns", conversation(5, 40)],
  ["a system message", conversation(6, 40, "system")],
  ["the most messages", conversation(most - 1, 8)],
  ["the most text in the most messages", conversation(most - 1, 8 * Math.floor(limits.bodyBytes / most / 8))],
  ["the most text in one message", conversation(1, limits.bodyBytes)],
];

describe.each(Object.entries(chatTemplates))("the template %s", (_, source) => {
  test.each(conversations)("renders %s as without bounds", (_, messages) => {
    const variables = variablesOf(messages);
    const outcome = (run: () => string) => outcomeOf(run, ({ message }) => `raised ${message}`);
    // The date is left out: the library takes it from the system's clock.
    const dateless = (text: string) => text.replace(/Today Date: .*/, "");
    const wanted = outcome(() => new Template(source).render(variables));
    expect(dateless(outcome(() => render(source, messages)))).toBe(dateless(wanted));
  });
});

/** Every filter, method and slice is applied to each of these values, every operator to each pair of them. */
const values = [
  ..."0 2 -1 2.5 true none nosuch messages messages[0] messages[0].content".split(" "),
  ..."''|'né a,b'|' x\\ny '|[]|[3, 1, 2]|['b', 'a', 'b']|{}|{'k': 1, 'content': 'v'}|(1, 2)".split("|"),
];
const filters = [
  ..."length first last reverse sort join string unique list upper lower title capitalize trim indent int".split(" "),
  ..."float abs items dictsort tojson safe default('d') default('d',true) join(',') replace('a','bb') int(3)".split(
    " ",
  ),
  ..."replace('','-',2) indent(2,true) indent(width=3,blank=true) tojson(indent=2) tojson(sort_keys=true)".split(" "),
  ..."map(attribute='content') map(attribute='k',default=1) selectattr('role','equalto','user')".split(" "),
  ..."rejectattr('content') sort(reverse=true) sort(attribute='content') dictsort(by='value')".split(" "),
];
const methods = [
  ..."upper() lower() strip() lstrip() rstrip() title() capitalize() split() items() keys() values()".split(" "),
  ..."split('a') split('a',1) replace('a','b') replace('a','',1) startswith('a') endswith(('a','b'))".split(" "),
  ..."get('content') get('x','y')".split(" "),
];
const slices = "[0] [-1] [1:] [:1] [::-1] [::2] ['content']".split(" ");
const operators = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">=", "and", "or", "in", "not in"];

test.each([
  ["filters", values.flatMap((value) => filters.map((filter) => `${value}|${filter}`))],
  ["methods", values.flatMap((value) => methods.map((method) => `(${value}).${method}`))],
  ["slices", values.flatMap((value) => slices.map((slice) => `(${value})${slice}`))],
  ["operators", values.flatMap((a) => values.flatMap((b) => operators.map((operator) => `(${a}) ${operator} (${b})`)))],
])("computes %s as without bounds, or fails where they fail", (_, expressions) => {
  const messages = conversation(2, 16, "system");
  const outcome = (run: () => string) => outcomeOf(run, () => "failed");
  const source = (expression: string) => `{{ ${expression} }}`;
  const unbounded = (one: string) => new Template(source(one)).render(variablesOf(messages));
  const found = expressions.map((one) => [one, outcome(() => render(source(one), messages))]);
  expect(found).toEqual(expressions.map((one) => [one, outcome(() => unbounded(one))]));
});

test.each([
  "{% for b in [1, 2] if b %}{{ loop.index }}{% break %}{% else %}none{% endfor %}{% for b in [] %}{% else %}none{% endfor %}",
  "{% for b in [1, 2] %}{% if b == 1 %}{% continue %}{% elif b %}{{ b }}{% else %}-{% endif %}{% endfor %}",
  "{%- set a %} x {% filter upper %}{{ messages|length }}y{% endfilter %}{% endset -%}{{ a }}",
  "{% macro m(p, q='d') %}<{{ p }}{{ q }}{{ caller() if caller else '' }}>{% endmacro %}{{ m(1, q=2) }}{% call m(3) %}in{% endcall %}",
  "{% set a = []|first %}{{ a is defined }}{{ range(3) }}{{ range(5, 1, -2) }}",
  "{% set ns = namespace(x=1) %}{% for b in range(5, 0, -2) %}{% set ns.x = ns.x + b %}{% endfor %}{{ ns.x }}{{ not ns.x is odd }}",
])("runs %s as without bounds", (source) => {
  const messages = conversation(2, 16);
  expect(render(source, messages)).toBe(new Template(source).render(variablesOf(messages)));
});

/** The limit on characters grows with the conversation. This conversation makes it so high that attacks meet the other limits. */
const largest = conversation(1, limits.bodyBytes);
/** Sets x to 2^20 letters. */
const million = `{% set x = 'aaaaaaaaaaaaaaaa' %}{% set x %}${"{{ x }}".repeat(256)}{% endset %}{% set x %}${"{{ x }}".repeat(256)}{% endset %}`;
/** Sets w to 2^19 words. */
const words = `{% set w %}${"a a ".repeat(64)}{% endset %}{% set w %}${"{{ w }}".repeat(256)}{% endset %}{% set w %}${"{{ w }}".repeat(16)}{% endset %}`;
const doubled = (step: string) => `{% set ns = namespace(x='ab', y=[1]) %}{% for i in range(60) %}${step}{% endfor %}`;

/** [what it does, source] */
const attacks: [string, string][] = [
  ["a range", "{{ range(2000000000) }}"],
  ["a range down", "{{ range(0, -2000000000, -1) }}"],
  [
    "a range of numbers that do not grow",
    "{{ range(9007199254740990, 9007199254740991)|length }}{{ range(1, 2, 9007199254740993) }}",
  ],
  [
    "nested loops",
    "{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}{% endfor %}{% endfor %}{% endfor %}",
  ],
  [
    "a loop over much, again and again",
    "{% set r = range(60000) %}{% for a in r %}{% for b in r if false %}{% endfor %}{% endfor %}",
  ],
  ["a macro that calls itself", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"],
  [
    "a macro that calls itself twice",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(30) }}",
  ],
  ["a string doubled by +", doubled("{% set ns.x = ns.x + ns.x %}")],
  ["a string doubled by ~", doubled("{% set ns.x = ns.x ~ ns.x %}")],
  ["a string doubled by a block", doubled("{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}")],
  [
    "a string doubled by a filter block",
    doubled("{% set y %}{% filter upper %}{{ ns.x }}{{ ns.x }}{% endfilter %}{% endset %}{% set ns.x = y %}"),
  ],
  ["a string doubled by replace", doubled("{% set ns.x = ns.x.replace('a', 'aa').replace('b', 'bb') %}")],
  ["a string doubled by join", doubled("{% set ns.x = [ns.x, ns.x]|join('') %}")],
  ["a list doubled", doubled("{% set ns.y = ns.y + ns.y %}")],
  ["a list that holds itself twice, deeper and deeper", doubled("{% set ns.y = [ns.y, ns.y] %}")],
  ["the same in objects", doubled("{% set ns.y = {'a': ns.y, 'b': ns.y} %}")],
  [
    "a list of long strings",
    doubled(
      "{% set ns.x = ns.x + ns.x if ns.x|length < 100000 else ns.x %}{% set ns.y = [ns.x, ns.x, ns.x, ns.x, ns.x, ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% set ns.y = [ns.y, ns.y] %}",
    ),
  ],
  ["the same text read again and again", `${million}{% for i in range(60000) %}{{ x|length }}{% endfor %}`],
  [
    "the same text stripped again and again",
    `${million}{% set x = x|replace('a', ' ') %}{% set strip = x.strip %}{% for i in range(60000) %}{% set y = strip() %}{% endfor %}`,
  ],
  ["a long text sliced again and again", `${million}{% for i in range(60000) %}{% set y = x[:1] %}{% endfor %}`],
  ["a list written out again and again", `{% set y = range(60000) %}{% for i in y %}{{ y }}{% endfor %}`],
  ["a list sorted again and again", `{% set y = range(60000) %}{% for i in y %}{% set z = y|sort %}{% endfor %}`],
  ["a long pattern searched in a long text", `${million}{{ ('b' + x) in (x + x[:9]) }}`],
  ["a long pattern split by", `${million}{{ x.split('b' + x)|length }}`],
  ["a long pattern replaced", `${million}{{ x|replace('b' + x, '') }}`],
  ["every letter replaced by a long text", `${million}{{ x|replace('a', x) }}`],
  ["the same by a method", `${million}{{ x.replace('a', x) }}`],
  ["the same by a method under another name", `${million}{% set f = x['repl' ~ 'ace'] %}{{ f('a', x) }}`],
  ["the same by a call block", `${million}{% set f = x.replace %}{% call f('a', x) %}{% endcall %}`],
  ["nothing replaced by a long text", `${million}{{ x|replace('', x) }}`],
  ["a long separator", `${million}{{ range(60000)|join(x) }}`],
  ["letters joined by a separator", `${million}{{ x|join('aaaa') }}`],
  ["lines indented far", `{{ 'a\\nb'|indent(500000000) }}`],
  ["many lines indented", `${million}{{ x|replace('a', '\\n')|indent(9, true, true) }}`],
  ["JSON indented far", "{{ [1]|tojson(indent=100000000) }}"],
  ["a long separator in JSON", `${million}{{ range(60000)|tojson(separators=[x, ""]) }}`],
  ["a text split into many words", `${words}{{ w.split()|length }}`],
  ["a text split into many letters", `${million}{{ x.split('a')|length }}`],
  ["a long attribute", `${million}{{ messages|map(attribute=x)|list }}`],
  ["a long attribute to sort by", `${million}{{ messages|sort(attribute=x) }}`],
  ["a long date", `${million}{{ strftime_now(x) }}`],
  ["much text in the end", `${million}{{ x }}{{ x }}{{ x }}`],
];
test.each(attacks)("refuses %s", (_, source) => {
  // If the stack is full within a look-up, the interpreter takes the variable for missing and throws one of the last three messages.
  expect(() => render(source, largest)).toThrow(
    /the maximum is \d+$|takes more than \d+ |goes too far|a method must be called|range\(\) takes integers|Cannot call something/,
  );
});

test("refuses a source that is too long, and one that the lexer would take long to read", () => {
  const { sourceCharacters, whitespaceRun } = templateLimits;
  expect(() => new BoundedTemplate("a".repeat(sourceCharacters))).not.toThrow();
  expect(() => new BoundedTemplate("a".repeat(sourceCharacters + 1))).toThrow(
    `${sourceCharacters + 1} characters, the maximum is ${sourceCharacters}`,
  );
  expect(() => new BoundedTemplate(`a${" ".repeat(whitespaceRun + 1)}`)).toThrow(
    `more than ${whitespaceRun} whitespace`,
  );
  expect(() => new BoundedTemplate("(".repeat(sourceCharacters))).not.toThrow();
  expect(() => new BoundedTemplate(`{{ ${"(".repeat(sourceCharacters - 8)}`)).toThrow();
});

test.each([
  "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
  "{% set ns = namespace() %}{{ [ns] }}",
  "{% set a = namespace() %}{% set b = namespace(a=a) %}",
])("refuses a namespace inside another value: %s", (source) => {
  expect(() => render(source)).toThrow("a namespace inside another value");
});

test.each([
  "{{ messages.constructor }}{{ messages.__proto__ }}{{ messages[0].constructor }}{{ ''.constructor }}",
  "{{ messages['constructor'] }}{{ messages[0]['__proto__'] }}{{ range.constructor }}{{ none.constructor }}",
  "{{ messages|map(attribute='constructor')|join }}{{ messages|map(attribute='__proto__.constructor')|join }}",
  "{{ constructor }}{{ __proto__ }}{{ globalThis }}{{ process }}{{ namespace().constructor }}{{ toString }}",
])("reaches no property of JavaScript's: %s", (source) => {
  expect(render(source)).toBe("");
});

test("a template's own refusal says what it says, in 200 characters", () => {
  const refusal = () => render("{{ raise_exception(messages[0].content) }}", conversation(1, 8000));
  expect(refusal).toThrow(TemplateRefusal);
  expect(refusal).toThrow(/^.{200}$/s);
});

test("the date is the caller's clock's, in UTC", () => {
  expect(render("{{ strftime_now('%d %b %Y, %B %m %H:%M %%') }}")).toBe("02 Jan 2026, January 01 03:04 %");
});
