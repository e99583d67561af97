/** Adds matrix products with a model's weights [out, in] to graphs. Shapes: M rows, V vocabulary, D hidden. */
import { joinArrays } from "../../shared/bytes.ts";
import type { GraphBuilder } from "./graph.ts";
import type { ModelConfig } from "./model-config.ts";
import { floatsOf, isBlockType, type ModelWeights, type Weight, weightOf } from "./model-weights.ts";
import {
  addBlockRows,
  addPackedProducts,
  type PackedMatrix,
  packRows,
  roundToBlocks,
  scaleRows,
} from "./packed-blocks.ts";
import { addQuantizedMatMuls, quantizeColumns } from "./quantizer.ts";
import type { KvFormat } from "./step.ts";
import { transpose } from "./transpose.ts";

/** fp32: as float32. int8: as int8 with a scale per row, the embedding in blocks. exact: as in the file. Adapters are always fp32. */
export const weightFormats = ["fp32", "int8", "exact"] as const;
/** fp16 is for devices only: the trunk computes in float16, embedding and head in float32. */
export type WeightFormat = (typeof weightFormats)[number] | "fp16";

/** Formats whose products are rounded store keys and values in fewer bits, too. */
export function kvFormatFor(format: WeightFormat): KvFormat {
  return format === "exact" ? "fp32" : format;
}

/** On a device, passes with at least this many rows give each row the same bits. With fewer, products of blocks sum in another order. */
export function steadyRows(format: WeightFormat): number {
  return format === "exact" ? 4 : 1;
}

export interface ProductTarget {
  g: GraphBuilder;
  config: ModelConfig;
  weights: ModelWeights;
  format: WeightFormat;
  isOnDevice?: boolean;
  /** Called with the names of each product's first weights and of its input. */
  observe?: (name: string, x: string) => void;
}

/** A product and its bias. The caller adds the bias, because some operators that follow can include it. */
export interface Product {
  product: string;
  /** null if there is no bias, or if `product` includes it. */
  bias: string | null;
}

/** A factor of the first `rows` outputs. It is applied to the weights when the graph is built. */
interface Scaled {
  rows: number;
  by: number;
}

/** x [M, in] → x·Wᵀ [M, Σ out]. W joins the rows of the named matrices (names without `.weight`). All have a bias or none. */
export type AddProduct = (names: readonly string[], x: string, scaled?: Scaled) => Product;

export function addProducts(target: ProductTarget): AddProduct {
  const { g, weights, format, isOnDevice, observe } = target;
  const quantized = format === "int8" ? addQuantizedMatMuls(g) : null;
  const packed = addPackedProducts(g, isOnDevice);
  const add: AddProduct = (names, x, scaled = { rows: 0, by: 1 }) => {
    const matrices = names.map((name) => weightOf(weights, `${name}.weight`));
    const rows = matrices.reduce((sum, { shape }) => sum + shape[0], 0);
    const shift = biasesOf(weights, names);
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
    const matrix = joinArrays<Float32Array<ArrayBuffer>>(Float32Array, matrices.map(floatsOf));
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

export function biased(g: GraphBuilder, { product, bias }: Product): string {
  return bias ? g.node("Add", [product, bias]) : product;
}

export interface Embedding {
  /** ids [S, T] → [S, T, D]. */
  embed(ids: string): string;
  /** hidden [N, D] → [N, V]. */
  baseLogits(hidden: string): string;
}

/** With a tied head, embedding and head are one matrix [V, D]. */
export function addEmbedding({ g, config, weights, format, isOnDevice }: ProductTarget): Embedding {
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
        : addPackedProducts(g, isOnDevice)(hidden, head);
    },
  };
}

/** Rows of the head in one product. A product of all rows would take four times the memory of the logits. */
const headRows = 8192;

/**
 * One of this many columns stays float32: those with the greatest weights, which would set the scale of every row. With the embedded
 * base, the head then costs 0.0002 nats a token (Kullback-Leibler divergence) instead of 0.0014. Blocks would cost no nats, but take
 * three times as long for 8 rows.
 */
const columnsForEachFloat = 32;

/** The head W [V, D] is int8 with a scale per row, but some columns are float32. */
function quantizedLogits(g: GraphBuilder, hidden: string, head: Weight): string {
  const [V, D] = head.shape;
  const floatColumns = greatestColumns(head, Math.ceil(D / columnsForEachFloat));
  const floats = new Float32Array(V * floatColumns.length);
  const product = addQuantizedMatMuls(g);
  const logits = Array.from(rowsOf(head), ({ first, values }) => {
    const rows = values.length / D;
    for (let row = 0; row < rows; row++) {
      floatColumns.forEach((column, i) => {
        floats[(first + row) * floatColumns.length + i] = values[row * D + column];
        values[row * D + column] = 0;
      });
    }
    return product(hidden, quantizeColumns(transpose(values, rows, D), D, rows));
  });
  const picked = g.node("Gather", [hidden, g.integers(...floatColumns)], { axis: 1 });
  const kernel = g.constant(floats, [V, floatColumns.length]);
  const rest = g.node("Gemm", [picked, kernel], { transB: 1 });
  return g.node("Add", [logits.length > 1 ? g.node("Concat", logits, { axis: 1 }) : logits[0], rest]);
}

/** Ranks columns by their sums of squares. */
function greatestColumns(matrix: Weight, count: number): number[] {
  const sums = new Float64Array(matrix.shape[1]);
  for (const { values } of rowsOf(matrix)) {
    for (let i = 0; i < values.length; i++) sums[i % sums.length] += values[i] ** 2;
  }
  return [...sums.keys()].sort((a, b) => sums[b] - sums[a]).slice(0, count);
}

/** Yields at most `headRows` rows at a time, because all rows of the embedded base are 113 MB. */
function* rowsOf({ dtype, shape: [rows, columns], bytes }: Weight): Generator<{ first: number; values: Float32Array }> {
  for (let first = 0; first < rows; first += headRows) {
    const count = Math.min(headRows, rows - first);
    const own = bytes.subarray((bytes.length / rows) * first, (bytes.length / rows) * (first + count));
    yield { first, values: floatsOf({ dtype, shape: [count, columns], bytes: own }) };
  }
}

function storedRows(matrix: Weight, format: WeightFormat): Float32Array<ArrayBuffer> | PackedMatrix {
  if (format === "fp32" || format === "fp16") return floatsOf(matrix);
  const packed = packRows([matrix]);
  if (packed) return packed;
  const values = floatsOf(matrix);
  return format === "exact" ? values : roundToBlocks(values, matrix.shape[0], matrix.shape[1]);
}

/** Joined copies, or null if the matrices have no biases. */
function biasesOf(weights: ModelWeights, names: readonly string[]): Float32Array<ArrayBuffer> | null {
  if (!weights.has(`${names[0]}.bias`)) return null;
  const biases = names.map((name) => floatsOf(weightOf(weights, `${name}.bias`)));
  return joinArrays<Float32Array<ArrayBuffer>>(Float32Array, biases);
}
