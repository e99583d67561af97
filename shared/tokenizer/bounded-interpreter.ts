/**
 * The Jinja interpreter of @huggingface/jinja with a budget. A template comes with an imported model and runs in an
 * isolate that other tenants share. So every node costs a step and every value its characters, and an operation whose
 * result may be the product of its operands' sizes (range, replace, join, indent, split, tojson) is checked before it
 * runs. Values wrap Maps, arrays and primitives: no name in a template reaches a JavaScript property.
 */
import { type Environment, Interpreter, type SyntaxNode, type TemplateValue } from "./jinja.ts";
import { itemCharacters, itemReadCharacters, itemsOf, requireAtMost, type TemplateBudget } from "./template-budget.ts";
import { templateLimits } from "./template-limits.ts";
import type { TemplateTree } from "./template-tree.ts";

/** Replaces an operand in the tree that has been evaluated. */
class Evaluated {
  readonly type = "Evaluated";
  readonly value: TemplateValue;
  constructor(value: TemplateValue) {
    this.value = value;
  }
}

/** Fields of the node types that this class handles. */
interface Parts {
  operator: { value: string };
  left: SyntaxNode;
  right: SyntaxNode;
  operand: SyntaxNode;
  filter: SyntaxNode & { value?: string; callee?: { value: string }; args?: SyntaxNode[] };
  body: SyntaxNode[];
  value: SyntaxNode | null;
  argument: SyntaxNode;
  assignee: SyntaxNode;
  object: SyntaxNode;
  property: SyntaxNode;
  computed: boolean;
  iterable: SyntaxNode;
  lhs: SyntaxNode;
}

interface Named {
  value: string;
}

/** Undefined lookups throw internally; charge 8 steps. */
const undefinedSteps = 8;

/** Filters whose arguments the interpreter needs unevaluated. */
const literalArguments = ["selectattr", "rejectattr"];

export class BoundedInterpreter extends Interpreter {
  readonly #tree: TemplateTree;
  readonly #budget: TemplateBudget;
  /** Values whose methods are already wrapped. */
  readonly #wrapped = new WeakSet<object>();

  constructor(environment: Environment, tree: TemplateTree, budget: TemplateBudget) {
    super(environment);
    this.#tree = tree;
    this.#budget = budget;
  }

  override evaluate(statement: SyntaxNode | undefined, environment: Environment): TemplateValue {
    if (!statement) return super.evaluate(statement, environment);
    if (statement instanceof Evaluated) return statement.value;
    this.#budget.spendSteps(1);
    this.#budget.enter();
    try {
      const value = this.#evaluateChecked(statement, environment);
      this.#budget.charge(value, this.#tree.outputs.has(statement));
      return value;
    } finally {
      this.#budget.leave();
    }
  }

  #evaluateChecked(node: SyntaxNode, environment: Environment): TemplateValue {
    const parts = node as SyntaxNode & Parts;
    switch (node.type) {
      case "BinaryExpression":
        return this.#binary(parts, environment);
      case "FilterExpression":
        return this.#filter(this.evaluate(parts.operand, environment), parts.filter, environment);
      case "FilterStatement":
        return this.#filter(this.#block(parts.body, environment), parts.filter, environment);
      case "Set":
        return this.#set(parts, environment);
      case "MemberExpression":
        return this.#member(parts, environment);
      case "For":
        return this.#loop(parts, environment);
      case "Identifier": {
        const value = super.evaluate(node, environment);
        if (value.type === "UndefinedValue") this.#budget.spendSteps(undefinedSteps);
        return value;
      }
      case "Macro":
      case "CallStatement":
        this.#budget.spendSteps(this.#tree.definitionSizes.get(node) ?? 0);
        return super.evaluate(node, environment);
      default:
        return super.evaluate(node, environment);
    }
  }

  #block(body: SyntaxNode[], environment: Environment): TemplateValue {
    return this.evaluate({ type: "Program", body } as SyntaxNode, environment);
  }

  #binary(node: SyntaxNode & Parts, environment: Environment): TemplateValue {
    const operator = node.operator.value;
    // `and` and `or` may skip their right operand, and create no value.
    if (operator === "and" || operator === "or") return super.evaluate(node, environment);
    const left = this.evaluate(node.left, environment);
    const right = this.evaluate(node.right, environment);
    const [leftCharacters, rightCharacters] = [left, right].map((value) => this.#budget.charactersOf(value));
    if (operator === "+" || operator === "~") {
      requireAtMost("characters of one value", leftCharacters + rightCharacters, templateLimits.valueCharacters);
    } else if (operator.endsWith("in") && left.type === "StringValue" && right.type === "StringValue") {
      this.#budget.spendSearch(rightCharacters, leftCharacters);
    } else {
      this.#budget.spendCharacters(leftCharacters + rightCharacters);
    }
    return super.evaluate(
      { ...node, left: new Evaluated(left), right: new Evaluated(right) } as SyntaxNode,
      environment,
    );
  }

  #filter(operand: TemplateValue, filter: Parts["filter"], environment: Environment): TemplateValue {
    const name = filter.value ?? filter.callee?.value ?? "";
    const known = literalArguments.includes(name) ? filter : this.#withArguments(filter, environment);
    const given = (known.args ?? []).flatMap(evaluatedIn);
    this.#checkFilter(name, operand, given);
    if (operand.type === "ObjectValue" || name === "replace") this.#wrapMethods(operand);
    const node = { type: "FilterExpression", operand: new Evaluated(operand), filter: known };
    return super.evaluate(node as SyntaxNode, environment);
  }

  /** The filter with its arguments evaluated, so that each is evaluated once. */
  #withArguments(filter: Parts["filter"], environment: Environment): Parts["filter"] {
    const evaluated = (node: SyntaxNode) => new Evaluated(this.evaluate(node, environment));
    const args = filter.args?.map((node): SyntaxNode => {
      const { value, argument } = node as SyntaxNode & Parts;
      if (node.type === "KeywordArgumentExpression") return { ...node, value: evaluated(value!) } as SyntaxNode;
      if (node.type.endsWith("SpreadExpression")) return { ...node, argument: evaluated(argument) } as SyntaxNode;
      return evaluated(node);
    });
    return args ? ({ ...filter, args } as Parts["filter"]) : filter;
  }

  #checkFilter(name: string, operand: TemplateValue, given: readonly TemplateValue[]): void {
    const { argumentCharacters, valueCharacters, jsonIndent } = templateLimits;
    const characters = this.#budget.charactersOf(operand);
    const items = operand.type === "StringValue" ? characters : itemsOf(operand);
    const numbers = given.map(({ value }) => value).filter((value) => typeof value === "number");
    const largest = Math.max(0, ...numbers);
    const longest = Math.max(0, ...given.map((value) => this.#budget.charactersOf(value)));
    switch (name) {
      case "join":
        if (given.length > 0) requireAtMost("list items", items, templateLimits.listItems);
        requireAtMost("characters of one value", characters + items * longest, valueCharacters);
        this.#budget.spendCharacters(characters);
        break;
      case "indent": {
        const lines = occurrences(String(operand.value), "\n") + 1;
        requireAtMost("characters of one value", characters + lines * largest, valueCharacters);
        break;
      }
      case "tojson":
        requireAtMost("spaces of indent", largest, jsonIndent);
        requireAtMost("characters of an argument", longest, argumentCharacters);
        this.#budget.spendCharacters(characters);
        break;
      case "sort":
      case "dictsort":
      case "map":
        requireAtMost("characters of an argument", longest, argumentCharacters);
        this.#budget.spendCharacters(characters * Math.ceil(Math.log2(items + 2)));
        break;
      case "unique":
      case "string":
        this.#budget.spendCharacters(characters);
    }
  }

  #set(node: SyntaxNode & Parts, environment: Environment): TemplateValue {
    const value = node.value ? this.evaluate(node.value, environment) : this.#block(node.body, environment);
    if (node.assignee.type === "MemberExpression" && value.type === "NamespaceValue") {
      throw new Error("a namespace inside another value is not supported");
    }
    return super.evaluate({ ...node, value: new Evaluated(value) } as SyntaxNode, environment);
  }

  #member(node: SyntaxNode & Parts, environment: Environment): TemplateValue {
    const object = this.evaluate(node.object, environment);
    const isSlice = node.property.type === "SliceExpression";
    // Slicing a string first creates a list of its characters.
    if (isSlice && object.type === "StringValue") this.#budget.spendCharacters(4 * this.#budget.charactersOf(object));
    const isEntry =
      !node.computed && object.value instanceof Map && object.value.has((node.property as SyntaxNode & Named).value);
    if (!isEntry) this.#wrapMethods(object);
    return super.evaluate({ ...node, object: new Evaluated(object) } as SyntaxNode, environment);
  }

  #loop(node: SyntaxNode & Parts, environment: Environment): TemplateValue {
    // In `for x in items if test`, the iterable is a SelectExpression around the items.
    const select = node.iterable.type === "SelectExpression" ? (node.iterable as SyntaxNode & Parts) : null;
    const items = this.evaluate(select ? select.lhs : node.iterable, environment);
    this.#budget.spendSteps(itemsOf(items));
    const evaluated = new Evaluated(items);
    const iterable = select ? { ...select, lhs: evaluated } : evaluated;
    return super.evaluate({ ...node, iterable } as SyntaxNode, environment);
  }

  /** Wraps the methods of a string or object, so that every call is charged and checked. */
  #wrapMethods(object: TemplateValue): void {
    const isText = object.type === "StringValue";
    if (!(isText || object.type === "ObjectValue") || this.#wrapped.has(object)) return;
    this.#wrapped.add(object);
    for (const [name, method] of object.builtins) {
      if (method.type !== "FunctionValue") continue;
      const call = method.value as (given: TemplateValue[], scope: Environment) => TemplateValue;
      method.value = (given: TemplateValue[], scope: Environment) => {
        const characters = this.#budget.charactersOf(object);
        if (isText) this.#checkMethod(name, object.value as string, given);
        else if (name === "dictsort") this.#checkFilter(name, object, []);
        this.#budget.spendCharacters(isText ? characters : itemsOf(object));
        return call(given, scope);
      };
    }
  }

  #checkMethod(name: string, text: string, given: readonly TemplateValue[]): void {
    const [pattern, replacement] = given.map((value) =>
      value.type === "StringValue" ? (value.value as string) : null,
    );
    for (const value of given) this.#budget.spendCharacters(this.#budget.charactersOf(value));
    if (name !== "split" && name !== "replace") return;
    // Without a pattern, `split` splits at white space.
    const longest = pattern?.length ?? 1;
    requireAtMost("characters of an argument", longest, templateLimits.argumentCharacters);
    this.#budget.spendSearch(text.length, longest);
    const found = pattern === null || pattern === undefined ? wordsIn(text) : occurrences(text, pattern);
    if (name === "split") {
      requireAtMost("list items", found + 1, templateLimits.listItems);
      this.#budget.spendCharacters(itemCharacters * found);
    }
    if (name !== "replace") return;
    const growth = Math.max(0, (replacement?.length ?? 0) - longest);
    requireAtMost("characters of one value", text.length + found * growth, templateLimits.valueCharacters);
    this.#budget.spendCharacters(itemReadCharacters * found);
  }
}

function evaluatedIn(node: SyntaxNode): TemplateValue[] {
  const { value, argument } = node as { value?: unknown; argument?: unknown };
  return [node, value, argument].flatMap((part) => (part instanceof Evaluated ? [part.value] : []));
}

function occurrences(text: string, pattern: string): number {
  if (pattern === "") return text.length + 1;
  let count = 0;
  for (let at = text.indexOf(pattern); at >= 0; at = text.indexOf(pattern, at + pattern.length)) count++;
  return count;
}

function wordsIn(text: string): number {
  const words = text.matchAll(/\S+/g);
  let count = 0;
  while (!words.next().done) count++;
  return count;
}
