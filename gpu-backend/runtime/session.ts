/** Loads graphs into ONNX Runtime. No other file imports the package. */
import ort from "onnxruntime-node";

/** An execution provider of ONNX Runtime. */
export type Device = "cpu" | "webgpu" | "cuda";
export type Session = ort.InferenceSession;
export type SessionResults = ort.InferenceSession.ReturnType;
export type Tensor = ort.Tensor;
type Elements = Float32Array | Int32Array | BigInt64Array | Int8Array | Uint8Array;

/**
 * Opens a session over a serialised ModelProto or the path of one, with `threads` threads inside each operator that runs on the CPU.
 * Rejects if `device` (default: the CPU) is not available. Operators that the device lacks run on the CPU.
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
        // Threads that spin briefly between operators make a step of two threads 9% faster. They stop when the run ends; otherwise
        // HTTP would starve on machines with few cores.
        intra_op: { allow_spinning: "1", spin_duration_us: "20" },
        force_spinning_stop: "1",
        // Masked positions make denormal numbers in the softmax, with which the CPU calculates a hundred times slower than with zeros.
        set_denormal_as_zero: "1",
      },
    },
  };
  // `create` has no overload for the union of both types.
  return ort.InferenceSession.create(model as string, settings);
}

/** A tensor that shares the array's memory. */
export function tensor(elements: Elements, shape: readonly number[], type?: "bool"): Tensor {
  return type ? new ort.Tensor(type, elements as Uint8Array, shape) : new ort.Tensor(elements as Float32Array, shape);
}
