/** Seeded random chat templates: all statements and operators, most filters and methods, on short conversations. */

const names = [
  "a",
  "b",
  "messages",
  "messages[0]",
  "messages[0].content",
  "message",
  "loop",
  "ns",
  "ns.x",
  "nosuch",
  "none",
  "eos_token",
];
const literals = [
  "0",
  "1",
  "2",
  "-1",
  "2.5",
  "true",
  "''",
  "'a'",
  "'né a,b'",
  "' x\\ny '",
  "[]",
  "[1, 'a']",
  "{}",
  "{'k': 1, 'content': 'v'}",
  "(1, 2)",
];
const binary = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">=", "and", "or", "in", "not in"];
const filters = [
  ..."length first last reverse sort join string unique list upper lower title capitalize trim indent int float abs items dictsort tojson safe".split(
    " ",
  ),
  ...[
    "default('d')",
    "default('d', true)",
    "join(', ')",
    "replace('a', 'bb')",
    "replace('', '-', 2)",
    "indent(2, true)",
    "indent(width=3, blank=true)",
  ],
  ...[
    "tojson(indent=2)",
    "tojson(sort_keys=true)",
    "map(attribute='content')",
    "map(attribute='k', default=1)",
    "selectattr('role', 'equalto', 'user')",
  ],
  ...["rejectattr('content')", "sort(reverse=true)", "sort(attribute='content')", "int(3)", "dictsort(by='value')"],
];
const methods = [
  ..."upper() lower() strip() lstrip() rstrip() title() capitalize() split() items() keys() values()".split(" "),
  ...[
    "split('a')",
    "split(' ', 1)",
    "replace('a', 'b')",
    "replace('a', '', 1)",
    "startswith('a')",
    "endswith(('a', 'b'))",
    "get('content')",
    "get('x', 'y')",
  ],
];
const tests =
  "defined undefined none string number integer iterable mapping sequence odd even true false lower upper callable".split(
    " ",
  );

export function randomTemplate(random: () => number): string {
  const pick = <T>(from: readonly T[]) => from[Math.floor(random() * from.length)];
  const expression = (depth: number): string => {
    const inner = () => expression(depth - 1);
    if (depth === 0) return random() < 0.6 ? pick(names) : pick(literals);
    const forms = [
      () => `(${inner()} ${pick(binary)} ${inner()})`,
      () => `(${inner()})|${pick(filters)}`,
      () => `(${inner()}).${pick(methods)}`,
      () => `(${inner()} is ${pick(["", "not "])}${pick(tests)})`,
      () => `(${inner()} if ${inner()} else ${inner()})`,
      () => `(${inner()})[${pick(["0", "-1", "1:", ":1", "::-1", "::2", "'content'", "'upper'"])}]`,
      () => `${pick(["not ", "-"])}(${inner()})`,
      () => `[${inner()}, ${inner()}]`,
      () => `{'k': ${inner()}}`,
      () => `range(${pick(["3", "1, 4", "5, 0, -2", "0"])})`,
      () => `m(${inner()}, q=${inner()})`,
      inner,
    ];
    return pick(forms)();
  };
  const value = () => expression(Math.floor(random() * 4));
  const block = (depth: number): string =>
    Array.from({ length: 1 + Math.floor(random() * 3) }, () => statement(depth)).join("");
  const statement = (depth: number): string => {
    const inner = () => block(depth - 1);
    const forms = [
      () => `{{ ${value()} }}`,
      () => "text \n",
      () => `{% set ${pick(["a", "b", "ns.x"])} = ${value()} %}`,
    ];
    if (depth > 0) {
      forms.push(
        () => `{% if ${value()} %}${inner()}{% elif ${value()} %}${inner()}{% else %}${inner()}{% endif %}`,
        () => `{% for message in messages %}${inner()}{% endfor %}`,
        () => `{% for b in ${value()} if ${value()} %}${inner()}{% else %}${inner()}{% endfor %}`,
        () => `{% for b in [1, 2] %}${inner()}{% ${pick(["break", "continue"])} %}{% endfor %}`,
        () => `{%- set a %}${inner()}{% endset -%}`,
        () => `{% filter ${pick(filters)} %}${inner()}{% endfilter %}`,
        () => `{% macro m(p, q='d') %}${inner()}{{ p }}{{ q }}{{ caller() if caller else '' }}{% endmacro %}`,
        () => `{% call m(${value()}) %}${inner()}{% endcall %}`,
      );
    }
    return pick(forms)();
  };
  return `{% set ns = namespace(x=1) %}{% set a = 'ab' %}{% macro m(p, q=2) %}<{{ p }}{{ q }}>{% endmacro %}${block(3)}`;
}
