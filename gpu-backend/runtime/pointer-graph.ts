/**
 * The pointer of mixed rows: attention over the positions of a prompt, whose mass goes to the token ids that follow them (Grave,
 * Joulin, Usunier, arXiv 1612.04426), beside a sentinel (Merity et al., arXiv 1609.07843), whose mass goes back to the experts.
 * Shapes: G mixed rows, P positions of the past, B rows of the arena, T head rows that ask each, H heads, d head width.
 */
import type { GraphBuilder } from "./graph.ts";
import { names } from "./graph-names.ts";
import type { ModelShape } from "./step.ts";

/**
 * What the pointer knows: cosines [G, P] of each row's key and the keys of its prompt, as attention's scores, summed over the
 * heads. They are an output, of which evidence is taken.
 */
export function addCosines(
  { g, config, products }: { g: GraphBuilder; config: ModelShape; products(q: string, keys: string): string },
  keys: string,
): string {
  const { hiddenSize: D, heads: H } = config;
  const { mixed } = names;
  const past = g.input(mixed.pointerKeys, "float32", ["B", H, "P", D / H]);
  const queries = g.input(mixed.pointerQueries, "int32", ["B", "T"]); // head rows
  const rows = g.input(mixed.pointerRows, "int32", ["G"]); // of B × T
  const shape = g.node("Concat", [g.node("Shape", [queries]), g.integers(H, D / H)], { axis: 0 });
  const asked = g.node("Reshape", [g.node("Gather", [keys, queries], { axis: 0 }), shape]); // [B, T, H, d]
  const query = g.node("Transpose", [asked], { perm: [0, 2, 1, 3] });
  const all = g.node("ReduceSum", [products(query, past), g.integers(1)], { keepdims: 0 }); // [B, T, P]
  const flat = g.node("Concat", [g.integers(-1), g.node("Shape", [past], { start: 2, end: 3 })], { axis: 0 });
  const cosines = g.node("Gather", [g.node("Reshape", [all, flat]), rows], { axis: 0 });
  g.output(mixed.cosines, cosines, "float32", ["G", "P"]);
  return cosines;
}

/** What the pointer adds to the mixture of rows. */
interface Attended {
  /** What the experts' weights are multiplied by, since they share what the pointer leaves, [G, 1]. */
  factors: string;
  /** Token ids and what each gets, [G, P]. */
  ids: string;
  masses: string;
}

/** Adds the pointer's inputs. What it returns adds its attention, by cosines [G, P], to the graph or to a branch of it. */
export function addPointer(g: GraphBuilder): (cosines: string) => Attended {
  const { mixed } = names;
  const mask = g.input(mixed.pointerMask, "float32", ["G", "P"]);
  const sharpness = g.input(mixed.pointerSharpness, "float32", ["G", 1]);
  const sentinels = g.input(mixed.pointerSentinels, "float32", ["G", 1]); // scores
  const ids = g.input(mixed.pointerIds, "int32", ["G", "P"]);
  const weights = g.input(mixed.pointerWeights, "float32", ["G", 1]);
  const odds = g.input(mixed.pointerOdds, "float32", ["G", 1]); // of the pointer's weight to the experts'
  return (cosines) => {
    // The sentinel comes first. Behind the positions, their number would decide which lane of a sum it is in, and so the sum's bits.
    const scores = g.node("Add", [g.node("Mul", [cosines, sharpness]), mask]);
    const attention = g.node("Softmax", [g.node("Concat", [sentinels, scores], { axis: 1 })], { axis: -1 });
    const part = (start: number, end: number) =>
      g.node("Slice", [attention, g.integers(start), g.integers(end), g.integers(1)]);
    return {
      factors: g.node("Add", [g.node("Mul", [part(0, 1), odds]), g.scalar(1)]),
      ids: g.node("Cast", [ids], { to: 7 }),
      masses: g.node("Mul", [part(1, 2 ** 31 - 1), weights]),
    };
  };
}
