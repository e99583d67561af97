/** GGUF's blocks in the layout of MatMulNBits, which has no offsets: a second product multiplies offsets by sums of activations. */
import { blockLayouts, forEachBlock } from "./block-types.ts";
import type { GraphBuilder } from "./graph.ts";
import { isBlockType, type Weight } from "./model-weights.ts";
import { transpose } from "./transpose.ts";

/** A matrix [out, in] in blocks along its rows: value = scale × (stored − 2^(bits − 1)) + offset. */
export interface PackedMatrix {
  bits: 4 | 8;
  block: number;
  rows: number; // out
  columns: number; // in
  /** Stored integers, [out, in / block, block × bits / 8]. In a byte with two 4-bit values, the first is in the low half. */
  values: Uint8Array;
  /** Scale of each block, [out, in / block]. */
  scales: Float32Array;
  /** [out, in / block]; null if all offsets are 0. */
  offsets: Float32Array | null;
}

/** Joins the rows of matrices. Returns null unless all have GGUF blocks of equal bits, size and offsets. */
export function packRows(matrices: readonly Weight[]): PackedMatrix | null {
  const kinds = matrices.map(packingOf);
  const [kind] = kinds;
  if (!kind || kinds.some((one) => JSON.stringify(one) !== JSON.stringify(kind))) return null;
  const columns = matrices[0].shape[1];
  const rows = matrices.reduce((sum, { shape }) => sum + shape[0], 0);
  const blocks = (rows * columns) / kind.block;
  const packed = {
    ...kind,
    rows,
    columns,
    values: new Uint8Array((rows * columns * kind.bits) / 8),
    scales: new Float32Array(blocks),
    offsets: kind.hasOffsets ? new Float32Array(blocks) : null,
  };
  let row = 0;
  for (const matrix of matrices) {
    packInto(packed, matrix, row * columns);
    row += matrix.shape[0];
  }
  return packed;
}

function packingOf({ dtype }: Weight) {
  if (!isBlockType(dtype)) return null;
  const { bits, group, hasOffsets } = blockLayouts[dtype];
  return { bits: bits === 4 ? (4 as const) : (8 as const), block: group, hasOffsets };
}

/** `start` is the index of the matrix's first value in the packed matrix. */
function packInto(
  { bits, block: size, values, scales, offsets }: PackedMatrix,
  { dtype, bytes }: Weight,
  start: number,
) {
  if (!isBlockType(dtype)) return;
  const layout = blockLayouts[dtype];
  const middle = 2 ** (bits - 1);
  // Moves the middle of the integers' range to the middle of the stored range.
  const shift = middle - layout.least - 2 ** (layout.bits - 1);
  forEachBlock(dtype, bytes, (block, index) => {
    const at = start + index * layout.values;
    if (bits === 8) for (let i = 0; i < layout.values; i++) values[at + i] = block.integers[i] + shift;
    else {
      for (let i = 0; i < layout.values; i += 2) {
        values[(at + i) >> 1] = (block.integers[i] + shift) | ((block.integers[i + 1] + shift) << 4);
      }
    }
    block.scales.forEach((scale, group) => {
      scales[at / size + group] = scale;
      if (offsets) offsets[at / size + group] = block.offsets[group] + scale * (middle - shift);
    });
  });
}

const roundedBlock = 32;

/** The matrix [out, in] gets one scale per block of a row. Rows are padded with zeros to whole blocks. */
export function roundToBlocks(matrix: Float32Array, rows: number, columns: number): PackedMatrix {
  const blocks = Math.ceil(columns / roundedBlock);
  const scales = new Float32Array(rows * blocks);
  const values = new Uint8Array(rows * blocks * roundedBlock).fill(128);
  for (let row = 0; row < rows; row++) {
    for (let block = 0; block < blocks; block++) {
      const from = row * columns + block * roundedBlock;
      const end = Math.min(from + roundedBlock, (row + 1) * columns);
      // The value of largest magnitude becomes -128, because int8 has one more negative than positive number.
      let extreme = 0;
      for (let i = from; i < end; i++) if (Math.abs(matrix[i]) > Math.abs(extreme)) extreme = matrix[i];
      const scale = extreme / -128 || 1;
      scales[row * blocks + block] = scale;
      const to = (row * blocks + block) * roundedBlock;
      for (let i = from; i < end; i++) values[to + i - from] = Math.min(Math.round(matrix[i] / scale) + 128, 255);
    }
  }
  return { bits: 8, block: roundedBlock, rows, columns, values, scales, offsets: null };
}

export function scaleRows({ columns, block, scales, offsets }: PackedMatrix, rows: number, by: number): void {
  for (let i = 0; i < (rows * columns) / block; i++) {
    scales[i] *= by;
    if (offsets) offsets[i] *= by;
  }
}

/** Least precise type that MatMulNBits may round activations to. */
const accuracyLevels = { float32: 1, int8: 4 };

/** x [M, in] float32 → x·Wᵀ [M, out] float32. A CPU's kernel rounds activations to int8, so x is multiplied in two parts (`inTwoParts`). */
export function addPackedProducts(g: GraphBuilder, onDevice = false): (x: string, w: PackedMatrix) => string {
  const made = new Map<string, string>();
  const once = (key: string, make: () => string): string => {
    const value = made.get(key) ?? make();
    made.set(key, value);
    return value;
  };
  return (x, w) => {
    const { bits, block, rows, columns, values, scales, offsets } = w;
    const blocks = Math.ceil(columns / block);
    const parts = onDevice ? x : once(`parts ${block} ${x}`, () => inTwoParts(g, x, columns, block));
    const weights = [g.constant(values, [rows, blocks, (block * bits) / 8]), g.constant(scales, [rows * blocks])];
    const accuracy_level = onDevice ? accuracyLevels.float32 : accuracyLevels.int8;
    const attributes = { K: columns, N: rows, bits, block_size: block, accuracy_level };
    const products = g.node("com.microsoft:MatMulNBits", [parts, ...weights], attributes);
    const product = onDevice ? products : sumOfParts(g, products);
    if (!offsets) return product;
    const sums = once(`sums ${block} ${x}`, () =>
      g.node("ReduceSum", [byBlock(g, x, columns, block), g.integers(2)], { keepdims: 0 }),
    ); // [M, in / block]
    const turned = g.constant(transpose(offsets, rows, blocks), [blocks, rows]);
    return g.node("Add", [product, g.node("MatMul", [sums, turned])]);
  };
}

/**
 * Puts x rounded to int8 steps above the remainder: [M, in] → [2M, in]. The product rounds each part again, so the error of the sum is
 * 1/127² of the block's maximum instead of 1/127.
 */
function inTwoParts(g: GraphBuilder, x: string, columns: number, block: number): string {
  const blocks = byBlock(g, x, columns, block);
  const greatest = g.node("ReduceMax", [g.node("Abs", [blocks]), g.integers(2)], { keepdims: 1 });
  // At least 1e-30, because the zeros of an empty block are divided by this step.
  const step = g.node("Max", [g.node("Mul", [greatest, g.scalar(1 / 127)]), g.scalar(1e-30)]);
  const rounded = g.node("Mul", [g.node("Round", [g.node("Div", [blocks, step])]), step]);
  const first = g.node("Reshape", [rounded, g.integers(-1, columns)]);
  return g.node("Concat", [first, g.node("Sub", [x, first])], { axis: 0 });
}

/** Adds the results of the two parts: [2M, out] → [M, out]. */
function sumOfParts(g: GraphBuilder, product: string): string {
  return g.node("Add", g.nodes("Split", [product], 2, { axis: 0, num_outputs: 2 }));
}

function byBlock(g: GraphBuilder, x: string, columns: number, block: number): string {
  return g.node("Reshape", [x, g.integers(-1, columns / block, block)]);
}

/** Looks up rows: ids [S, T] → [S, T, in] float32. */
export function addBlockRows(g: GraphBuilder, ids: string, matrix: PackedMatrix): string {
  const { bits, block, rows, columns, values, scales, offsets } = matrix;
  const blocks = Math.ceil(columns / block);
  const stored = g.constant(values, [rows, blocks, (block * bits) / 8]);
  const inputs = [stored, ids, g.constant(scales, [rows, blocks, 1])];
  const attributes = { bits, block_size: block, gather_axis: 0, quantize_axis: 2 };
  let rowsOfBlocks = g.node("com.microsoft:GatherBlockQuantized", inputs, attributes); // [S, T, blocks, block]
  if (offsets) {
    const own = g.node("Gather", [g.constant(offsets, [rows, blocks, 1]), ids], { axis: 0 });
    rowsOfBlocks = g.node("Add", [rowsOfBlocks, own]);
  }
  const whole = g.node("Reshape", [rowsOfBlocks, g.integers(0, 0, blocks * block)]);
  if (blocks * block === columns) return whole;
  return g.node("Slice", [whole, g.integers(0), g.integers(columns), g.integers(2)]);
}
