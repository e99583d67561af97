/**
 * The Jinja interpreter of @huggingface/jinja with limits, as the templates of imported models run in an isolate that tenants share.
 * Every value is checked when it is read or made, and arguments are short, so that no operation much exceeds the limit of one
 * value. Values wrap Maps, arrays and primitives: no name in a template reaches a JavaScript property.
 */
import { type Environment, Interpreter, type SyntaxNode, type TemplateValue } from "./jinja.ts";
import { requireAtMost, TemplateLimitError, templateLimits } from "./template-limits.ts";

/** How a node's parent uses its value: reads it as a whole, takes it as an argument, loops over it or calls it. */
type Use = "whole" | "argument" | "iterated" | "called";

/** Fields of the node types that the limits depend on. */
interface Parts extends SyntaxNode {
  operator: { value: string };
  left: SyntaxNode;
  right: SyntaxNode;
  operand: SyntaxNode;
  filter: { value?: string; callee?: { value: string }; args?: SyntaxNode[] };
  callee: SyntaxNode;
  args: SyntaxNode[];
  iterable: SyntaxNode & { lhs?: SyntaxNode };
  value?: SyntaxNode;
  argument?: SyntaxNode;
}

interface Size {
  characters: number;
  /** Depth of nested lists and objects. */
  nesting: number;
}

/** Filters that do not look into the items of a list. */
const shallowFilters = "length first last list reverse selectattr rejectattr map items default d safe".split(" ");

export class BoundedInterpreter extends Interpreter {
  readonly #characterLimit: number;
  readonly #definitionSteps: number;
  #steps = 0;
  #depth = 0;
  #characters = 0;
  readonly #uses = new WeakMap<object, Use>();
  /** Sizes of lists and objects, which are immutable. */
  readonly #sizes = new WeakMap<object, Size>();

  /** @param conversationCharacters characters of the conversation to render */
  constructor(environment: Environment, sourceCharacters: number, conversationCharacters: number) {
    super(environment);
    const { characters, characterReads } = templateLimits;
    this.#characterLimit = characters + characterReads * conversationCharacters;
    // The definition of a macro walks all that is in it, up to a node every few characters.
    this.#definitionSteps = Math.ceil(sourceCharacters / 64);
  }

  get spent(): { steps: number; characters: number } {
    return { steps: this.#steps, characters: this.#characters };
  }

  override evaluate(node: SyntaxNode | undefined, environment: Environment): TemplateValue {
    if (!node) return super.evaluate(node, environment);
    this.#spendSteps(1);
    this.#noteUses(node as Parts);
    this.#depth++;
    requireAtMost("nodes inside each other", this.#depth, templateLimits.depth);
    const value = super.evaluate(node, environment);
    this.#depth--;
    const use = this.#uses.get(node);
    if (value?.type === "FunctionValue" && node.type === "MemberExpression" && use !== "called") {
      throw new Error("a method must be called where it is named");
    }
    if (value) this.#charge(value, use);
    return value;
  }

  /** The text of a block's statements. */
  override evaluateBlock(statements: SyntaxNode[], environment: Environment): TemplateValue {
    for (const statement of statements) this.#uses.set(statement, "whole");
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
    if (node.type === "BinaryExpression" && node.operator.value !== "and" && node.operator.value !== "or") {
      this.#uses.set(node.left, node.operator.value.endsWith("in") ? "argument" : "whole");
      this.#uses.set(node.right, "whole");
    } else if (node.type === "FilterExpression" || node.type === "FilterStatement") {
      const name = node.filter.value ?? node.filter.callee?.value ?? "";
      if (node.operand && !shallowFilters.includes(name)) this.#uses.set(node.operand, "whole");
      if (name !== "default" && name !== "d") arguments_(node.filter.args);
    } else if (node.type === "CallExpression") {
      this.#uses.set(node.callee, "called");
      if (node.callee.type === "MemberExpression") arguments_(node.args);
    } else if (node.type === "For") {
      this.#uses.set(node.iterable.lhs ?? node.iterable, "iterated");
    } else if (node.type === "Macro" || node.type === "CallStatement") {
      this.#spendSteps(this.#definitionSteps);
    }
  }

  #charge(value: TemplateValue, use?: Use): void {
    const { characters } = this.#sizeOf(value);
    const isText = value.type === "StringValue";
    if (use === "argument") {
      const { argumentCharacters, argumentNumber } = templateLimits;
      requireAtMost("characters of an argument", characters, isText ? argumentCharacters : 4 * argumentCharacters);
      if (typeof value.value === "number") requireAtMost("as an argument", Math.abs(value.value), argumentNumber);
    }
    if (use === "whole" && value.type === "FunctionValue") throw new Error("a function cannot be written out");
    if (use === "iterated") this.#spendSteps(itemsOf(value));
    this.#characters += isText || use === "whole" ? characters : itemsOf(value);
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

  /** Throws a TemplateLimitError for a value that is too large. */
  #sizeOf(value: TemplateValue): Size {
    const known = this.#sizes.get(value);
    if (known) return known;
    const size = { characters: 0, nesting: 0 };
    if (value.type === "StringValue") size.characters = (value.value as string).length;
    else if (isContainer(value)) {
      size.nesting = 1;
      for (const [key, item] of entriesOf(value)) {
        // Namespaces are mutable: one inside another value would change that value's size, or contain itself.
        if (item.type === "NamespaceValue") throw new Error("a namespace inside another value is not supported");
        const { characters, nesting } = this.#sizeOf(item);
        size.characters += templateLimits.itemCharacters + key.length + characters;
        size.nesting = Math.max(size.nesting, nesting + 1);
      }
      if (value.type !== "NamespaceValue") this.#sizes.set(value, size);
    }
    requireAtMost("characters of one value", size.characters, templateLimits.valueCharacters);
    requireAtMost("values inside each other", size.nesting, templateLimits.nesting);
    return size;
  }
}

function isContainer(value: TemplateValue): boolean {
  return value.value instanceof Map || Array.isArray(value.value);
}

/** Number of list items or object entries; 0 for other values. */
function itemsOf({ value }: TemplateValue): number {
  return Array.isArray(value) ? value.length : value instanceof Map ? value.size : 0;
}

function* entriesOf({ value }: TemplateValue): Iterable<[string, TemplateValue]> {
  if (value instanceof Map) yield* value;
  else for (const item of value as TemplateValue[]) yield ["", item];
}
