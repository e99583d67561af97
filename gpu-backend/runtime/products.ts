/**
 * Every product with a model's weights: the one place that knows how matrices are stored. Weights are [out, in], by the names of
 * model-weights.ts. Shapes: M rows, V vocabulary, D hidden.
 */
import type { GraphBuilder } from "./graph.ts";
import type { ModelConfig } from "./model-config.ts";
import { floatsOf, isBlockType, type ModelWeights, type Weight, weightOf } from "./model-weights.ts";
import {
  addBlockRows,
  addPackedProducts,
  inTwoParts,
  type PackedMatrix,
  packRows,
  roundToBlocks,
  scaleRows,
  sumOfParts,
} from "./packed-blocks.ts";
import { addQuantizedMatMuls, quantizeColumns } from "./quantizer.ts";
import type { KvFormat } from "./step.ts";
import { transpose } from "./transpose.ts";

/**
 * How matrices are stored; adapters are fp32 in all. fp32: as float32 whatever the file has. int8: trunk and head with a scale per
 * row, the embedding in blocks. exact: as the file has them, in its blocks or as float32.
 */
export const weightFormats = ["fp32", "int8", "exact"] as const;
export type WeightFormat = (typeof weightFormats)[number];

/** How the keys and values of a model of this format are stored: int8 where its products are not exact either. */
export function kvFormatFor(format: WeightFormat): KvFormat {
  return format === "int8" ? "int8" : "fp32";
}

/** What products are made from and into. */
export interface ProductTarget {
  g: GraphBuilder;
  config: ModelConfig;
  weights: ModelWeights;
  format: WeightFormat;
  /** Called with each product's first matrix and input. */
  observe?: (name: string, x: string) => void;
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
export function addProducts(target: ProductTarget, like: string): AddProduct {
  const { g, weights, format, observe } = target;
  const quantized = format === "int8" ? addQuantizedMatMuls(g, like) : null;
  const packed = addPackedProducts(g, { isPrecise: true });
  const add: AddProduct = (names, x, scaled = { rows: 0, by: 1 }) => {
    const matrices = names.map((name) => weightOf(weights, `${name}.weight`));
    const rows = matrices.reduce((sum, { shape }) => sum + shape[0], 0);
    const shift = biasesOf(weights, names, rows);
    shift?.subarray(0, scaled.rows).forEach((value, i) => {
      shift[i] = value * scaled.by;
    });
    const bias = shift && g.constant(shift, [rows], `${names[0]}.bias`);
    const hasBlocks = format === "exact" && matrices.some(({ dtype }) => isBlockType(dtype));
    if (hasBlocks) {
      const matrix = packRows(matrices);
      if (matrix) {
        scaleRows(matrix, scaled.rows, scaled.by);
        return { product: packed(x, matrix), bias };
      }
      let before = 0;
      const parts = names.map((name, i) => {
        const own = { rows: Math.max(0, Math.min(scaled.rows - before, matrices[i].shape[0])), by: scaled.by };
        before += matrices[i].shape[0];
        return biased(g, add([name], x, own));
      });
      return { product: g.node("Concat", parts, { axis: 1 }), bias: null };
    }
    const columns = matrices[0].shape[1];
    const matrix = joined(matrices.map(floatsOf), rows * columns);
    matrix.subarray(0, scaled.rows * columns).forEach((value, i) => {
      matrix[i] = value * scaled.by;
    });
    if (quantized)
      return { product: quantized(x, quantizeColumns(transpose(matrix, rows, columns), columns, rows)), bias };
    const kernel = g.constant(matrix, [rows, columns], `${names[0]}.weight`);
    return { product: g.node("Gemm", bias ? [x, kernel, bias] : [x, kernel], { transB: 1 }), bias: null };
  };
  return (names, x, scaled) => {
    observe?.(names[0], x);
    return add(names, x, scaled);
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
  const name = "model.embed_tokens.weight";
  const matrix = weightOf(weights, name);
  const tokens = storedRows(matrix, format);
  const headMatrix = config.tiedHead ? matrix : weightOf(weights, "lm_head.weight");
  const shape = [config.vocabularySize, config.hiddenSize];
  return {
    embed: (ids) =>
      tokens instanceof Float32Array
        ? g.node("Gather", [g.constant(tokens, shape, name), ids], { axis: 0 })
        : addBlockRows(g, ids, tokens),
    baseLogits: (hidden) => {
      if (format === "int8") return quantizedLogits(g, hidden, headMatrix);
      const head = config.tiedHead ? tokens : storedRows(headMatrix, format);
      return head instanceof Float32Array
        ? g.node("Gemm", [hidden, g.constant(head, shape, config.tiedHead ? name : "lm_head.weight")], { transB: 1 })
        : addPackedProducts(g, { isPrecise: true })(hidden, head);
    },
  };
}

/** Rows of a head whose products are computed together: two parts of all would take four times the memory of the logits. */
const headRows = 8192;

/**
 * x·Wᵀ of a head W [V, D] in int8 with a scale per row: of x in two parts, as rounding x once costs .015 nats a token (of the embedded
 * base), and the two .0006. Blocks cost .0006 less, and take three times as long for a batch of 8 rows.
 */
function quantizedLogits(g: GraphBuilder, hidden: string, { dtype, shape: [V, D], bytes }: Weight): string {
  const parts = inTwoParts(g, hidden, D, D);
  const product = addQuantizedMatMuls(g, parts);
  const logits: string[] = [];
  for (let first = 0; first < V; first += headRows) {
    const rows = Math.min(headRows, V - first);
    const own = bytes.subarray((bytes.length / V) * first, (bytes.length / V) * (first + rows));
    const floats = floatsOf({ dtype, shape: [rows, D], bytes: own });
    logits.push(sumOfParts(g, product(parts, quantizeColumns(transpose(floats, rows, D), D, rows))));
  }
  return logits.length > 1 ? g.node("Concat", logits, { axis: 1 }) : logits[0];
}

/** A matrix [out, in] of embeddings or the head. */
function storedRows(matrix: Weight, format: WeightFormat): Float32Array<ArrayBuffer> | PackedMatrix {
  if (format === "fp32") return floatsOf(matrix);
  const packed = packRows([matrix]);
  if (packed) return packed;
  const values = floatsOf(matrix);
  return format === "exact" ? values : roundToBlocks(values, matrix.shape[0], matrix.shape[1]);
}

/** The biases of matrices one after the other, as a copy; null if they have none. */
function biasesOf(weights: ModelWeights, names: readonly string[], rows: number): Float32Array<ArrayBuffer> | null {
  if (!weights.has(`${names[0]}.bias`)) return null;
  return joined(
    names.map((name) => floatsOf(weightOf(weights, `${name}.bias`))),
    rows,
  );
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
