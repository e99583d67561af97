/** What the bounded interpreter must know of a template's syntax tree before it runs. Pure. */
import type { SyntaxNode } from "./jinja.ts";

export interface TemplateTree {
  /** Statements whose values become text of the result. */
  outputs: ReadonlySet<object>;
  /** Nodes in and under each macro and call block: evaluating its definition walks all of them. */
  definitionSizes: ReadonlyMap<object, number>;
}

/** Properties of a node that hold the statements of a block. */
const blocks = new Set(["body", "alternate", "defaultBlock"]);

export function readTemplateTree(program: SyntaxNode): TemplateTree {
  const outputs = new Set<object>();
  const definitionSizes = new Map<object, number>();

  const visitAll = (children: Iterable<unknown>): number => {
    let size = 0;
    for (const child of children) size += visit(child);
    return size;
  };
  const visit = (node: unknown): number => {
    if (typeof node !== "object" || node === null) return 0;
    if (Array.isArray(node)) return visitAll(node);
    if (node instanceof Map) return visitAll(node.keys()) + visitAll(node.values());
    let size = 1;
    for (const [property, child] of Object.entries(node)) {
      if (blocks.has(property) && Array.isArray(child)) for (const statement of child) outputs.add(statement);
      size += visit(child);
    }
    const { type } = node as SyntaxNode;
    if (type === "Macro" || type === "CallStatement") definitionSizes.set(node, size);
    return size;
  };
  visit(program);
  return { outputs, definitionSizes };
}
