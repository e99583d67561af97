/**
 * GGUF's blocks as MatMulNBits multiplies them, with nothing rounded again: integers move into its layout, scales become
 * float32, and what a type adds to a group's values is multiplied with sums of the activations in a product of its own.
 */
import { blockLayouts, forEachBlock } from "./block-types.ts";
import type { GraphBuilder } from "./graph.ts";
import { isBlockType, type Weight } from "./model-weights.ts";
import { transpose } from "./transpose.ts";

/** A matrix [out, in]: value = scale × (stored − half the range) + offset, scale and offset of each block of a row. */
export interface PackedMatrix {
  bits: 4 | 8;
  block: number;
  rows: number; // out
  columns: number; // in
  /** [out, in / block, block × bits / 8]; of two 4-bit values in a byte the first is the low one. */
  values: Uint8Array;
  /** [out, in / block] */
  scales: Float32Array;
  /** [out, in / block]; null where all are 0. */
  offsets: Float32Array | null;
}

/** The rows of matrices of GGUF blocks, one matrix after the other; null if they are not all packed alike. */
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

/** Writes a matrix's blocks where its first value is number `start` of the whole. */
function packInto(
  { bits, block: size, values, scales, offsets }: PackedMatrix,
  { dtype, bytes }: Weight,
  start: number,
) {
  if (!isBlockType(dtype)) return;
  const layout = blockLayouts[dtype];
  const middle = 2 ** (bits - 1);
  // The integers' own middle is stored as the middle of the range.
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

/** Values along a row that share one scale where floats are rounded. */
const roundedBlock = 32;

/** Rounds [out, in] to 8 bits with one scale per block of a row. Rows are padded with zeros to whole blocks. */
export function roundToBlocks(matrix: Float32Array, rows: number, columns: number): PackedMatrix {
  const blocks = Math.ceil(columns / roundedBlock);
  const scales = new Float32Array(rows * blocks);
  const values = new Uint8Array(rows * blocks * roundedBlock).fill(128);
  for (let row = 0; row < rows; row++) {
    for (let block = 0; block < blocks; block++) {
      const from = row * columns + block * roundedBlock;
      const end = Math.min(from + roundedBlock, (row + 1) * columns);
      // The extreme value lands on the range's far end, which is one step longer on the negative side.
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

/** Multiplies the first `rows` rows, in place. */
export function scaleRows({ columns, block, scales, offsets }: PackedMatrix, rows: number, by: number): void {
  for (let i = 0; i < (rows * columns) / block; i++) {
    scales[i] *= by;
    if (offsets) offsets[i] *= by;
  }
}

/**
 * What adds x·Wᵀ to the graph: x [M, in] float32 → [M, out] float32. Activations are rounded to int8 per block. `isPrecise`
 * multiplies what that leaves of them, too, as M more rows: an error of 1/127² in place of 1/127. Products of the same x share
 * what is made of it.
 */
export function addPackedProducts(
  g: GraphBuilder,
  { isPrecise }: { isPrecise: boolean },
): (x: string, w: PackedMatrix) => string {
  const made = new Map<string, string>();
  const once = (key: string, make: () => string): string => {
    const value = made.get(key) ?? make();
    made.set(key, value);
    return value;
  };
  return (x, w) => {
    const { bits, block, rows, columns, values, scales, offsets } = w;
    const blocks = Math.ceil(columns / block);
    const rounded = isPrecise ? once(`parts ${block} ${x}`, () => inTwoParts(g, x, columns, block)) : x;
    const weights = [g.constant(values, [rows, blocks, (block * bits) / 8]), g.constant(scales, [rows * blocks])];
    const attributes = { K: columns, N: rows, bits, block_size: block, accuracy_level: 4 };
    let product = g.node("com.microsoft:MatMulNBits", [rounded, ...weights], attributes);
    if (isPrecise) product = sumOfParts(g, product);
    if (!offsets) return product;
    const sums = once(`sums ${block} ${x}`, () =>
      g.node("ReduceSum", [byBlock(g, x, columns, block), g.integers(2)], { keepdims: 0 }),
    ); // [M, in / block]
    const turned = g.constant(transpose(offsets, rows, blocks), [blocks, rows]);
    return g.node("Add", [product, g.node("MatMul", [sums, turned])]);
  };
}

/** x [M, in] rounded to what int8 holds per block, then what is left of it: [2M, in]. */
export function inTwoParts(g: GraphBuilder, x: string, columns: number, block: number): string {
  const blocks = byBlock(g, x, columns, block);
  const greatest = g.node("ReduceMax", [g.node("Abs", [blocks]), g.integers(2)], { keepdims: 1 });
  // Of a block of zeros the step must not be 0.
  const step = g.node("Max", [g.node("Mul", [greatest, g.scalar(1 / 127)]), g.scalar(1e-30)]);
  const rounded = g.node("Mul", [g.node("Round", [g.node("Div", [blocks, step])]), step]);
  const first = g.node("Reshape", [rounded, g.integers(-1, columns)]);
  return g.node("Concat", [first, g.node("Sub", [x, first])], { axis: 0 });
}

/** What a product of two parts [2M, out] is of x itself, [M, out]. */
export function sumOfParts(g: GraphBuilder, product: string): string {
  return g.node("Add", g.nodes("Split", [product], 2, { axis: 0, num_outputs: 2 }));
}

function byBlock(g: GraphBuilder, x: string, columns: number, block: number): string {
  return g.node("Reshape", [x, g.integers(-1, columns / block, block)]);
}

/** Rows of the matrix by their index, ids [S, T] → [S, T, in] float32. */
export function addBlockRows(g: GraphBuilder, ids: string, matrix: PackedMatrix): string {
  const { bits, block, rows, columns, values, scales, offsets } = matrix;
  const blocks = Math.ceil(columns / block);
  const pick = (constant: string) => g.node("Gather", [constant, ids], { axis: 0 });
  const stored = pick(g.constant(values, [rows, blocks, (block * bits) / 8]));
  const integers = bits === 8 ? stored : halves(g, stored, block);
  const centred = g.node("Sub", [g.node("Cast", [integers], { to: 1 }), g.scalar(2 ** (bits - 1))]);
  let rowsOfBlocks = g.node("Mul", [centred, pick(g.constant(scales, [rows, blocks, 1]))]);
  if (offsets) rowsOfBlocks = g.node("Add", [rowsOfBlocks, pick(g.constant(offsets, [rows, blocks, 1]))]);
  const whole = g.node("Reshape", [rowsOfBlocks, g.integers(0, 0, blocks * block)]);
  if (blocks * block === columns) return whole;
  return g.node("Slice", [whole, g.integers(0), g.integers(columns), g.integers(2)]);
}

/** Bytes of two 4-bit values each, [S, T, blocks, block / 2] → [S, T, blocks, block]. */
function halves(g: GraphBuilder, bytes: string, block: number): string {
  const low = g.node("BitwiseAnd", [bytes, g.constant(Uint8Array.of(15), [])]);
  const high = g.node("BitShift", [bytes, g.constant(Uint8Array.of(4), [])], { direction: "RIGHT" });
  const pairs = [low, high].map((half) => g.node("Unsqueeze", [half, g.integers(-1)]));
  return g.node("Reshape", [g.node("Concat", pairs, { axis: -1 }), g.integers(0, 0, 0, block)]);
}
