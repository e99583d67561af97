/**
 * What the matrix products alone take: every linear layer and the head of the model as ONNX Runtime multiplies them, with
 * nothing in between. No graph of this format on this runtime is faster, so what is above it is ours to save.
 */

import { GraphBuilder } from "../../gpu-backend/runtime/graph.ts";
import { openSession, tensor } from "../../gpu-backend/runtime/session.ts";
import { gpt2Shapes } from "../support/gpt2-file.ts";
import { seededRandom } from "../support/steps.ts";
import { gpt2Config } from "./model.ts";
import { median } from "./quantile.ts";

export type KernelFormat = "fp32" | "int8";
export const kernelFormats = ["fp32", "int8"] as const;
/** Rows at a time: decode steps of 1 and 8 sequences, a chunk of a prompt (whose head is one row). */
const rowCounts = [1, 8, 64];
const runs = 15;

export interface KernelFloor {
  format: KernelFormat;
  rows: number;
  ms: number;
}

export async function measureKernels(format: KernelFormat, threads: number): Promise<KernelFloor[]> {
  const session = await openSession(productsOnly(format), { threads });
  const random = seededRandom(9);
  const floors: KernelFloor[] = [];
  for (const rows of rowCounts) {
    const x = Float32Array.from({ length: rows * gpt2Config.hiddenSize }, () => random() - 0.5);
    const feeds = { x: tensor(x, [rows, gpt2Config.hiddenSize]) };
    const spansMs: number[] = [];
    for (let run = 0; run < runs; run++) {
      const startedMs = performance.now();
      await session.run(feeds);
      spansMs.push(performance.now() - startedMs);
    }
    floors.push({ format, rows, ms: median(spansMs) });
  }
  await session.release();
  return floors;
}

export function kernelLine(floors: readonly KernelFloor[]): string {
  const cells = floors.map(({ rows, ms }) => `${rows} rows ${ms.toFixed(1)} ms`);
  return `products alone, ${floors[0].format}: ${cells.join(", ")}`;
}

/** The products in the model's order, each fed by the one before; the head on at most 8 rows. */
function productsOnly(format: KernelFormat): Uint8Array {
  const { hiddenSize: D, vocabularySize: V } = gpt2Config;
  const g = new GraphBuilder("products");
  const multiply = format === "fp32" ? addFloat(g) : addInt8(g);
  let states = g.input("x", "float32", ["M", D]);
  for (const [name, shape] of gpt2Shapes(gpt2Config)) {
    if (!/^h\..*(attn|mlp).*weight$/.test(name)) continue;
    const [rows, columns] = shape;
    const product = multiply(states, rows, columns);
    // Queries alone go on to the next layer.
    states = columns === 3 * D ? g.nodes("Split", [product], 3, { axis: 1, num_outputs: 3 })[0] : product;
  }
  const last = g.node("Slice", [states, g.integers(0), g.integers(8), g.integers(0)]);
  g.output("y", g.node("ReduceMax", [multiply(last, D, V), g.integers(-1)], { keepdims: 0 }), "float32", ["N"]);
  return g.bytes();
}

function addFloat(g: GraphBuilder) {
  const random = seededRandom(10);
  return (x: string, rows: number, columns: number) => {
    const matrix = Float32Array.from({ length: rows * columns }, () => (random() - 0.5) / 10);
    return g.node("Gemm", [x, g.constant(matrix, [rows, columns])]);
  };
}

function addInt8(g: GraphBuilder) {
  const random = seededRandom(10);
  return (x: string, rows: number, columns: number) => {
    const matrix = Int8Array.from({ length: rows * columns }, () => Math.floor(256 * random()) - 128);
    const step = g.scalar(1 / 127);
    const zero = g.constant(Uint8Array.of(128), []);
    return g.node("com.microsoft:MatMulIntegerToFloat", [
      g.node("QuantizeLinear", [x, step, zero]),
      g.constant(matrix, [rows, columns]),
      step,
      g.constant(new Float32Array(columns).fill(1e-3), [columns]),
      zero,
    ]);
  };
}
