/**
 * @huggingface/jinja's interpreter with limits, because tenants share an isolate. Its boxes hide JavaScript's properties from templates.
 */
import { type Environment, Interpreter, type SyntaxNode, type TemplateValue } from "./jinja.ts";
import { requireAtMost, TemplateLimitError, templateLimits } from "./template-limits.ts";

type Use = "argument" | "iterated" | "called";

interface Parts extends SyntaxNode {
  operator: { value: string };
  left: SyntaxNode;
  filter: { value?: string; callee?: { value: string }; args?: SyntaxNode[] };
  callee: SyntaxNode;
  args: SyntaxNode[];
  iterable: SyntaxNode & { lhs?: SyntaxNode };
  value?: SyntaxNode;
  argument?: SyntaxNode;
}

export class BoundedInterpreter extends Interpreter {
  readonly #characterLimit: number;
  #steps = 0;
  #characters = 0;
  readonly #uses = new WeakMap<object, Use>();
  /** Sizes in characters of lists and objects. A size stays valid, because lists and objects are immutable. */
  readonly #sizes = new WeakMap<object, number>();

  constructor(environment: Environment, conversationCharacters: number) {
    super(environment);
    const { characters, characterReads } = templateLimits;
    this.#characterLimit = characters + characterReads * conversationCharacters;
  }

  override evaluate(node: SyntaxNode | undefined, environment: Environment): TemplateValue {
    if (!node) return super.evaluate(node, environment);
    this.#spendSteps(1);
    this.#noteUses(node as Parts);
    const value = super.evaluate(node, environment);
    const use = this.#uses.get(node);
    // A method in a variable could be called repeatedly, without a charge for reading its text.
    if (value?.type === "FunctionValue" && node.type === "MemberExpression" && use !== "called") {
      throw new Error("a method must be called where it is named");
    }
    if (value) this.#charge(value, use);
    return value;
  }

  /** Charges a block's text to the limit of characters. */
  override evaluateBlock(statements: SyntaxNode[], environment: Environment): TemplateValue {
    const text = super.evaluateBlock(statements, environment);
    this.#charge(text);
    return text;
  }

  #noteUses(node: Parts): void {
    const arguments_ = (nodes: readonly SyntaxNode[] = []) => {
      for (const one of nodes) {
        const { value, argument } = one as Parts;
        const isNamed = one.type === "KeywordArgumentExpression";
        this.#uses.set((isNamed ? value : one.type.endsWith("SpreadExpression") ? argument : one)!, "argument");
      }
    };
    if (node.type === "BinaryExpression" && node.operator.value.endsWith("in")) this.#uses.set(node.left, "argument");
    else if (node.type === "FilterExpression" || node.type === "FilterStatement") {
      const name = node.filter.value ?? node.filter.callee?.value ?? "";
      if (name !== "default" && name !== "d") arguments_(node.filter.args);
    } else if (node.type === "CallExpression") {
      this.#uses.set(node.callee, "called");
      if (node.callee.type === "MemberExpression") arguments_(node.args);
    } else if (node.type === "For") this.#uses.set(node.iterable.lhs ?? node.iterable, "iterated");
  }

  #charge(value: TemplateValue, use?: Use): void {
    const characters = this.#charactersOf(value);
    const isText = value.type === "StringValue";
    if (use === "argument") {
      const { argumentCharacters, argumentNumber } = templateLimits;
      requireAtMost("characters of an argument", characters, isText ? argumentCharacters : 4 * argumentCharacters);
      if (typeof value.value === "number") requireAtMost("as an argument", Math.abs(value.value), argumentNumber);
    }
    if (use === "iterated") this.#spendSteps(itemsOf(value));
    this.#characters += isText ? characters : itemsOf(value);
    if (this.#characters > this.#characterLimit) {
      throw new TemplateLimitError(
        `the chat template takes more than ${this.#characterLimit} characters read and written`,
      );
    }
  }

  #spendSteps(steps: number): void {
    this.#steps += steps;
    if (this.#steps > templateLimits.steps) {
      throw new TemplateLimitError(`the chat template takes more than ${templateLimits.steps} steps`);
    }
  }

  #charactersOf(value: TemplateValue): number {
    const known = this.#sizes.get(value);
    if (known !== undefined) return known;
    let characters = value.type === "StringValue" ? (value.value as string).length : 0;
    if (itemsOf(value) > 0) {
      for (const [key, item] of entriesOf(value)) {
        // Namespaces are mutable, so the size of a value with a namespace could change.
        if (item.type === "NamespaceValue") throw new Error("a namespace inside another value is not supported");
        characters += templateLimits.itemCharacters + key.length + this.#charactersOf(item);
      }
      if (value.type !== "NamespaceValue") this.#sizes.set(value, characters);
    }
    requireAtMost("characters of one value", characters, templateLimits.valueCharacters);
    return characters;
  }
}

function itemsOf({ value }: TemplateValue): number {
  return Array.isArray(value) ? value.length : value instanceof Map ? value.size : 0;
}

function* entriesOf({ value }: TemplateValue): Iterable<[string, TemplateValue]> {
  if (value instanceof Map) yield* value;
  else for (const item of value as TemplateValue[]) yield ["", item];
}
