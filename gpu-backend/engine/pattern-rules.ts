/** Turns regular expressions into rules of XGrammar's EBNF, one for each state of an automaton. Pure. */
import { DFA, JS, NFA } from "refa";

/** A form has no grammar if an expression is not supported or matches nothing, or if the grammar would be too long. */
export class GrammarFault extends Error {}

const maxCharacter = 0x10ffff;
/** Matches texts without characters that need an escape in JSON, and without U+2028 and U+2029 (grammar-thread.ts). */
const writable = String.raw`^[^\x00-\x1f"\\\u2028\u2029\ud800-\udfff]*$`;
const beyondAscii = maxCharacter - 0x7f - 0x800 - 2;
const ascii = Array.from({ length: 0x80 }, (_, code) => code);
/** XGrammar takes too long to compile more states. */
const statesAtMost = 256;

/** In the result, `start` names the rule of a string after its first quote. Throws GrammarFault. */
export function patternRules(patterns: readonly string[], prefix: string): { text: string; start: string } {
  const automaton = [writable, ...patterns].map(languageOf).reduce((all, one) => DFA.fromIntersection(all, one));
  automaton.minimize();
  for (const { out } of automaton.nodes()) dropPartial(out);
  automaton.minimize();
  const states = [...automaton.nodes()];
  const refuse = (fault: string) => new GrammarFault(`the patterns ${JSON.stringify(patterns)} ${fault}`);
  if (automaton.isEmpty) throw refuse("find nothing in any text that can be written");
  if (states.length > statesAtMost) throw refuse(`take ${states.length} states, the maximum is ${statesAtMost}`);
  const nameOf = (state: DFA.Node) => `${prefix}_${states.indexOf(state)}`;
  const rules = states.map((state) => {
    const parts = automaton.finals.has(state) ? [`"\\""`] : [];
    for (const [next, entries] of Map.groupBy(state.out, ([, one]) => one)) {
      const isIn = (code: number) => entries.some(([{ min, max }]) => min <= code && code <= max);
      const classOf = (has: boolean) =>
        ascii
          .filter((code) => isIn(code) === has)
          .map(hex)
          .join("");
      const alone = isIn(maxCharacter) ? [] : entries.filter(([{ min }]) => min > 0x7f);
      // In XGrammar 0.1.27 a negated class contains all characters beyond ASCII, and any other class contains none.
      if (isIn(maxCharacter)) parts.push(`[^${classOf(false)}] ${nameOf(next)}`);
      else if (ascii.some(isIn)) parts.push(`[${classOf(true)}] ${nameOf(next)}`);
      for (const [{ min }] of alone) parts.push(`"${hex(min)}" ${nameOf(next)}`);
    }
    return `${nameOf(state)} ::= ${parts.join(" | ")}\n`;
  });
  return { text: rules.join(""), start: nameOf(automaton.initial) };
}

export function hex(code: number): string {
  return `\\U${code.toString(16).padStart(8, "0")}`;
}

/** A grammar can express a single character beyond ASCII or all of them, but not a range. */
function dropPartial(out: DFA.Node["out"]): void {
  for (const entries of [...Map.groupBy(out, ([, one]) => one).values()]) {
    const ranges = entries
      .map(([{ min, max }]) => ({ min: Math.max(min, 0x80), max }))
      .filter(({ min, max }) => min <= max);
    const count = ranges.reduce((sum, { min, max }) => sum + max - min + 1, 0);
    if (count < beyondAscii) for (const range of ranges) if (range.min < range.max) out.deleteRange(range);
  }
}

function languageOf(pattern: string): DFA {
  try {
    const parser = JS.Parser.fromLiteral({ source: pattern, flags: "u" });
    return DFA.fromFA(foundBy(parser, parser.ast.pattern.alternatives, false));
  } catch (thrown) {
    throw new GrammarFault(`the pattern ${JSON.stringify(pattern)} is not supported: ${(thrown as Error).message}`);
  }
}

type Alternatives = JS.Parser["ast"]["pattern"]["alternatives"];

/** `isAtStart`: the match must begin at the start of the text. */
function foundBy(parser: JS.Parser, alternatives: Alternatives, isAtStart: boolean): NFA {
  const all = NFA.empty({ maxCharacter });
  for (const { elements } of alternatives) {
    const isStart = isAtStart || isAssertion(elements[0], "start");
    const rest = elements.slice(isAssertion(elements[0], "start") ? 1 : 0);
    const isEnd = isAssertion(rest.at(-1), "end");
    if (isEnd) rest.pop();
    const ahead: DFA[] = [];
    for (let first = rest[0]; isStart && first?.type === "Assertion" && first.kind === "lookahead"; first = rest[0]) {
      const found = DFA.fromFA(foundBy(parser, first.alternatives, true));
      if (first.negate) found.complement();
      ahead.push(found);
      rest.shift();
    }
    let one = isStart ? NFA.emptyWord({ maxCharacter }) : NFA.all({ maxCharacter });
    for (const element of rest) {
      const { expression } = parser.parseElement(element, { assertions: "throw", backreferences: "throw" });
      one.append(NFA.fromRegex(expression, { maxCharacter }));
    }
    if (!isEnd) one.append(NFA.all({ maxCharacter }));
    for (const other of ahead) one = NFA.fromIntersection(one, other);
    all.union(one);
  }
  return all;
}

function isAssertion(element: Alternatives[number]["elements"][number] | undefined, kind: "start" | "end"): boolean {
  return element?.type === "Assertion" && element.kind === kind;
}
