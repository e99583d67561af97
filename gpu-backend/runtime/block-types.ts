/** GGUF's block types (ggml-quants.c of ggml). A group of a row's values shares scale and offset: value = scale × integer + offset. */
import { floatOfHalf } from "../../shared/math/float16.ts";

/** A block stores `values` integers of `bits` bits in `bytes` bytes. `least` is the smallest integer. `group` values share a scale. */
interface Layout {
  values: number;
  bytes: number;
  group: 16 | 32;
  bits: 4 | 5 | 6 | 8;
  least: number;
  hasOffsets: boolean;
}

export const blockLayouts = {
  Q8_0: { values: 32, bytes: 34, group: 32, bits: 8, least: -128, hasOffsets: false },
  Q4_0: { values: 32, bytes: 18, group: 32, bits: 4, least: -8, hasOffsets: false },
  Q4_1: { values: 32, bytes: 20, group: 32, bits: 4, least: 0, hasOffsets: true },
  Q4_K: { values: 256, bytes: 144, group: 32, bits: 4, least: 0, hasOffsets: true },
  Q5_K: { values: 256, bytes: 176, group: 32, bits: 5, least: 0, hasOffsets: true },
  Q6_K: { values: 256, bytes: 210, group: 16, bits: 6, least: -32, hasOffsets: false },
} as const satisfies Record<string, Layout>;
export type BlockType = keyof typeof blockLayouts;

/** A decoded block. Double precision holds the product of two numbers of the file, so scales and offsets are exact. */
export interface Block {
  integers: Int8Array; // [values]
  scales: Float64Array; // [values / group]
  offsets: Float64Array; // [values / group]
}

/** Calls `use` with each block of `bytes`. Every call gets the same object, overwritten. */
export function forEachBlock(type: BlockType, bytes: Uint8Array, use: (block: Block, index: number) => void): void {
  const layout: Layout = blockLayouts[type];
  const groups = layout.values / layout.group;
  const block: Block = {
    integers: new Int8Array(layout.values),
    scales: new Float64Array(groups),
    // Types without offsets add -0, because adding 0 would turn a value of -0 into 0.
    offsets: new Float64Array(groups).fill(-0),
  };
  const read = readers[type];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const count = bytes.byteLength / layout.bytes;
  for (let i = 0; i < count; i++) {
    read(view, i * layout.bytes, block);
    use(block, i);
  }
}

/** The values of whole blocks, each rounded to float32 once. The bits are equal to those of ggml's own arithmetic. */
export function dequantise(type: BlockType, bytes: Uint8Array): Float32Array<ArrayBuffer> {
  const layout: Layout = blockLayouts[type];
  const values = new Float32Array((bytes.byteLength / layout.bytes) * layout.values);
  let to = 0;
  forEachBlock(type, bytes, ({ integers, scales, offsets }) => {
    for (let group = 0; group < scales.length; group++) {
      const from = group * layout.group;
      for (let i = from; i < from + layout.group; i++) values[to++] = scales[group] * integers[i] + offsets[group];
    }
  });
  return values;
}

const readers: Record<BlockType, (view: DataView, at: number, block: Block) => void> = {
  /** Block: a float16 scale, then 32 int8. */
  Q8_0(view, at, { integers, scales }) {
    scales[0] = float16(view, at);
    for (let i = 0; i < 32; i++) integers[i] = view.getInt8(at + 2 + i);
  },
  /** Block: a float16 scale, then 16 bytes. Byte i holds values i and i + 16, with 8 added to each. */
  Q4_0(view, at, { integers, scales }) {
    scales[0] = float16(view, at);
    for (let i = 0; i < 16; i++) {
      const pair = view.getUint8(at + 2 + i);
      integers[i] = (pair & 15) - 8;
      integers[i + 16] = (pair >> 4) - 8;
    }
  },
  /** Block: a float16 scale and offset, then 16 bytes. Byte i holds values i and i + 16. */
  Q4_1(view, at, { integers, scales, offsets }) {
    scales[0] = float16(view, at);
    offsets[0] = float16(view, at + 2);
    for (let i = 0; i < 16; i++) {
      const pair = view.getUint8(at + 4 + i);
      integers[i] = pair & 15;
      integers[i + 16] = pair >> 4;
    }
  },
  /** Block: scales as in `readGroups`, then 128 bytes of integers as in `readHalves`. */
  Q4_K(view, at, block) {
    readGroups(view, at, block);
    readHalves(view, at + 16, block.integers);
  },
  /** Block: as Q4_K, with 32 bytes of fifth bits between scales and integers. Bit g of byte i belongs to value i of group g. */
  Q5_K(view, at, block) {
    readGroups(view, at, block);
    readHalves(view, at + 48, block.integers);
    for (let i = 0; i < 256; i++) block.integers[i] |= ((view.getUint8(at + 16 + (i & 31)) >> (i >> 5)) & 1) << 4;
  },
  /**
   * Block: the low four bits of the integers (128 bytes), their upper two bits (64 bytes), an int8 scale for each group, and a float16
   * factor of the scales. 32 is added to each integer. Each half of the 256 values is stored as four runs of 32 values.
   */
  Q6_K(view, at, { integers, scales }) {
    const scale = float16(view, at + 208);
    for (let group = 0; group < 16; group++) scales[group] = scale * view.getInt8(at + 192 + group);
    for (let i = 0; i < 256; i++) {
      const half = i >> 7;
      const run = (i >> 5) & 3;
      const low = view.getUint8(at + 64 * half + 32 * (run & 1) + (i & 31));
      const high = (view.getUint8(at + 128 + 32 * half + (i & 31)) >> (2 * run)) & 3;
      integers[i] = ((run < 2 ? low & 15 : low >> 4) | (high << 4)) - 32;
    }
  },
};

/** Reads six-bit scales and minima for the eight groups of Q4_K and Q5_K. A float16 factor multiplies the scales, another the minima. */
function readGroups(view: DataView, at: number, { scales, offsets }: Block): void {
  const scale = float16(view, at);
  const minimum = float16(view, at + 2);
  const byte = (i: number) => view.getUint8(at + 4 + i);
  for (let i = 0; i < 4; i++) {
    scales[i] = scale * (byte(i) & 63);
    offsets[i] = -minimum * (byte(4 + i) & 63);
    scales[4 + i] = scale * ((byte(8 + i) & 15) | ((byte(i) >> 6) << 4));
    offsets[4 + i] = -minimum * ((byte(8 + i) >> 4) | ((byte(4 + i) >> 6) << 4));
  }
}

/** Reads integers of four bits. 32 bytes hold two groups: the first in the low halves of the bytes, the second in the high halves. */
function readHalves(view: DataView, at: number, integers: Int8Array): void {
  for (let i = 0; i < 256; i++) {
    const pair = view.getUint8(at + 32 * (i >> 6) + (i & 31));
    integers[i] = i & 32 ? pair >> 4 : pair & 15;
  }
}

function float16(view: DataView, at: number): number {
  return floatOfHalf(view.getUint16(at, true));
}
