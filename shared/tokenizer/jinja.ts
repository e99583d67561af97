/** The used parts of @huggingface/jinja, with types, because the package's own types do not resolve from an ES module. */
import * as jinja from "@huggingface/jinja";

export interface SyntaxNode {
  type: string;
}

/** A box over a string, number, boolean, null, undefined, an array or Map of boxes, or a function. */
export interface TemplateValue {
  type: string;
  value: unknown;
  builtins: ReadonlyMap<string, TemplateValue>;
}

export interface Environment {
  /** `value`: a JavaScript value, not yet boxed. */
  set(name: string, value: unknown): TemplateValue;
}

interface Interpreter {
  evaluate(node: SyntaxNode | undefined, environment: Environment): TemplateValue;
  evaluateBlock(statements: SyntaxNode[], environment: Environment): TemplateValue;
}

export const Environment = jinja.Environment as unknown as new () => Environment;
export const Interpreter = jinja.Interpreter as unknown as new (environment: Environment) => Interpreter;

/** Trims whitespace as Transformers does. Throws an Error if `source` is not Jinja. */
export function parseTemplate(source: string): SyntaxNode {
  return jinja.parse(jinja.tokenize(source, { lstrip_blocks: true, trim_blocks: true })) as unknown as SyntaxNode;
}
