/** Loads a graph into ONNX Runtime. The only file that names the package, so the only one that knows its options. */
import ort from "onnxruntime-node";

/** Version of ONNX Runtime's package. */
export const runtimeVersion = ort.env.versions.node;

/** An execution provider of ONNX Runtime. */
export type Device = "cpu" | "webgpu" | "cuda";
export type Session = ort.InferenceSession;
export type SessionResults = ort.InferenceSession.ReturnType;
export type Tensor = ort.Tensor;
type Elements = Float32Array | Int32Array | BigInt64Array | Int8Array | Uint8Array;

/**
 * Opens a session over a serialised ModelProto or the path of one, with `threads` threads inside each operator that runs on the CPU.
 * Rejects where `device` (the CPU if none is named) is not there; an operator that it lacks runs on the CPU.
 */
export function openSession(
  model: Uint8Array | string,
  options: { threads: number; device?: Device },
): Promise<Session> {
  const settings: ort.InferenceSession.SessionOptions = {
    executionProviders: [options.device ?? "cpu"],
    graphOptimizationLevel: "all",
    intraOpNumThreads: options.threads,
    interOpNumThreads: 1,
    executionMode: "sequential",
    logSeverityLevel: 3,
    extra: {
      session: {
        // Threads spin briefly between operators: a step of two threads takes 9% less time. They stop when the run ends, or HTTP
        // would starve on few cores.
        intra_op: { allow_spinning: "1", spin_duration_us: "20" },
        force_spinning_stop: "1",
        // The softmax of a masked position is a denormal, and those cost the CPU a hundred times a zero.
        set_denormal_as_zero: "1",
      },
    },
  };
  return typeof model === "string"
    ? ort.InferenceSession.create(model, settings)
    : ort.InferenceSession.create(model, settings);
}

/** A tensor over the array's own memory: what is written there before the run is what the graph reads. */
export function tensor(elements: Elements, shape: readonly number[], type?: "bool"): Tensor {
  return type ? new ort.Tensor(type, elements as Uint8Array, shape) : new ort.Tensor(elements as Float32Array, shape);
}
