/** Times the same matrix products on each device. device.ts decides by the results. */
import type { Probe } from "./device.ts";
import { GraphBuilder } from "./graph.ts";
import { type Device, openSession, tensor } from "./session.ts";

const rows = 256;
const width = 1024;
const products = 4;
/** Timed runs. The fastest counts, since other work of a machine that starts slows some of them down. */
const runs = 3;

/** Runs the probe's graph on `device`, which takes up to 2 s in software. Never throws: a failure is a result. `now`: milliseconds. */
export async function probeDevice(device: Device, threads: number, now: () => number): Promise<Probe> {
  try {
    const session = await openSession(probeGraph(), { threads, device });
    try {
      const x = tensor(waves(rows * width, 1), [rows, width]);
      // The first run compiles kernels.
      const result = (await session.run({ x })).y.data as Float32Array;
      let milliseconds = Number.POSITIVE_INFINITY;
      for (let run = 0; run < runs; run++) {
        const start = now();
        await session.run({ x });
        milliseconds = Math.min(milliseconds, now() - start);
      }
      return { milliseconds, result };
    } finally {
      await session.release();
    }
  } catch (error) {
    return { failure: firstSentence(error) };
  }
}

/** y [rows] = row sums of x·Wⁿ. */
function probeGraph(): Uint8Array {
  const g = new GraphBuilder("device-probe");
  const matrix = g.constant(waves(width * width, 1 / Math.sqrt(width)), [width, width], "w");
  let state = g.input("x", "float32", [rows, width]);
  for (let i = 0; i < products; i++) state = g.node("MatMul", [state, matrix]);
  g.output("y", g.node("ReduceSum", [state, g.integers(-1)], { keepdims: 0 }), "float32", [rows]);
  return g.bytes();
}

/** Irregular values, so that sums do not cancel out. */
function waves(count: number, amplitude: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => amplitude * Math.sin(i * i * 0.37 + i));
}

/** The message of ONNX Runtime without the source file and stack before it. */
function firstSentence(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const line = message.trim().split("\n")[0];
  return line.slice(line.lastIndexOf(" was false. ") + 1).replace(/^was false\. /, "");
}
