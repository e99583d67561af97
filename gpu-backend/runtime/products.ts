/**
 * Every product with a model's weights: the one place that knows how matrices are stored. Weights are [out, in], by the names of
 * model-weights.ts. Shapes: M rows, V vocabulary, D hidden.
 */
import type { GraphBuilder } from "./graph.ts";
import type { ModelConfig } from "./model-config.ts";
import { floatsOf, type ModelWeights, weightOf } from "./model-weights.ts";
import { addBlockMatMul, addQuantizedMatMuls, blockRows, quantizeBlocks, quantizeColumns } from "./quantizer.ts";
import type { ModelShape } from "./step.ts";
import { transpose } from "./transpose.ts";

/** How the trunk's matrices and the head are stored; adapters are fp32 in all. */
export const weightFormats = ["fp32", "int8", "block8", "block4"] as const;
export type WeightFormat = (typeof weightFormats)[number];
/** Bytes of one weight of a matrix, its share of a scale included. */
export const bytesPerWeight: Record<WeightFormat, number> = {
  fp32: 4,
  int8: 1,
  block8: 1 + 4 / 32,
  block4: 0.5 + 4 / 32,
};

/** The formats that a model of this shape can be stored in, fp32 first. */
export function formatsFor({ hiddenSize }: ModelShape): WeightFormat[] {
  return weightFormats.filter((format) => !format.startsWith("block") || hiddenSize % blockRows === 0);
}

/** What products are made from and into. */
export interface ProductTarget {
  g: GraphBuilder;
  config: ModelConfig;
  weights: ModelWeights;
  format: WeightFormat;
}

/** x·Wᵀ, and what is still to be added to it: the next operator often adds a bias in passing. */
export interface Product {
  product: string;
  /** null where there is none, or the product holds it. */
  bias: string | null;
}

/** Factor of the first `rows` outputs, which goes into their weights. */
interface Scaled {
  rows: number;
  by: number;
}

/**
 * x·Wᵀ for x [M, in], where W are the rows of the named matrices, one matrix after the other: [M, Σ out]. Names are without
 * `.weight`; either all of them have a bias or none.
 */
export type AddProduct = (names: readonly string[], x: string, scaled?: Scaled) => Product;

/** What adds products with any x of as many rows M as `like` has, which in int8 share their zero points. */
export function addProducts({ g, weights, format }: ProductTarget, like: string): AddProduct {
  const quantized = format === "int8" ? addQuantizedMatMuls(g, like) : null;
  return (names, x, scaled = { rows: 0, by: 1 }) => {
    const { matrix, shift, rows, columns } = stacked(weights, names);
    matrix.subarray(0, scaled.rows * columns).forEach((value, i) => {
      matrix[i] = value * scaled.by;
    });
    shift?.subarray(0, scaled.rows).forEach((value, i) => {
      shift[i] = value * scaled.by;
    });
    const bias = shift && g.constant(shift, [rows], `${names[0]}.bias`);
    if (format === "fp32") {
      const kernel = g.constant(matrix, [rows, columns], `${names[0]}.weight`);
      return { product: g.node("Gemm", bias ? [x, kernel, bias] : [x, kernel], { transB: 1 }), bias: null };
    }
    const turned = transpose(matrix, rows, columns);
    const product = quantized
      ? quantized(x, quantizeColumns(turned, columns, rows))
      : addBlocks(g, x, turned, columns, rows, format);
    return { product, bias };
  };
}

/** A product with its bias. */
export function biased(g: GraphBuilder, { product, bias }: Product): string {
  return bias ? g.node("Add", [product, bias]) : product;
}

export interface Embedding {
  /** [S, T, D] of token ids [S, T] */
  embed(ids: string): string;
  /** [N, V] of hidden states [N, D] */
  baseLogits(hidden: string): string;
}

/** The embedding of token ids, and the head x·Wᵀ: of the same matrix [V, D] if the head is tied. */
export function addEmbedding({ g, config, weights, format }: ProductTarget): Embedding {
  const { vocabularySize: V, hiddenSize: D } = config;
  const name = "model.embed_tokens.weight";
  const matrix = floatsOf(weightOf(weights, name));
  const head = config.tiedHead ? matrix : floatsOf(weightOf(weights, "lm_head.weight"));
  if (format === "fp32") {
    const rows = g.constant(matrix, [V, D], name);
    const kernel = config.tiedHead ? rows : g.constant(head, [V, D], "lm_head.weight");
    return {
      embed: (ids) => g.node("Gather", [rows, ids], { axis: 0 }),
      baseLogits: (hidden) => g.node("Gemm", [hidden, kernel], { transB: 1 }),
    };
  }
  const embedding = quantizeColumns(transpose(matrix, V, D), D, V);
  const rows = g.constant(transpose(embedding.values, D, V), [V, D], name);
  const scales = g.constant(embedding.scales, [V, 1], "model.embed_tokens.scales");
  const turned = transpose(head, V, D); // [D, V]
  const kernel = config.tiedHead ? embedding : quantizeColumns(turned, D, V);
  return {
    embed: (ids) => {
      const values = g.node("Cast", [g.node("Gather", [rows, ids], { axis: 0 })], { to: 1 });
      return g.node("Mul", [values, g.node("Gather", [scales, ids], { axis: 0 })]);
    },
    baseLogits: (hidden) =>
      format === "int8" ? addQuantizedMatMuls(g, hidden)(hidden, kernel) : addBlocks(g, hidden, turned, D, V, format),
  };
}

/** The rows of matrices [out, in] one after the other, as copies, and their biases; null if they have none. */
function stacked(weights: ModelWeights, names: readonly string[]) {
  const parts = names.map((name) => weightOf(weights, `${name}.weight`));
  const columns = parts[0].shape[1];
  const rows = parts.reduce((sum, { shape }) => sum + shape[0], 0);
  const hasBias = weights.has(`${names[0]}.bias`);
  return {
    rows,
    columns,
    matrix: joined(parts.map(floatsOf), rows * columns),
    shift: hasBias
      ? joined(
          names.map((name) => floatsOf(weightOf(weights, `${name}.bias`))),
          rows,
        )
      : null,
  };
}

function joined(parts: readonly Float32Array<ArrayBuffer>[], length: number): Float32Array<ArrayBuffer> {
  if (parts.length === 1) return parts[0];
  const all = new Float32Array(length);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function addBlocks(
  g: GraphBuilder,
  x: string,
  matrix: Float32Array,
  rows: number,
  columns: number,
  format: WeightFormat,
): string {
  return addBlockMatMul(g, x, quantizeBlocks(matrix, rows, columns, format === "block4" ? 4 : 8));
}
