/** Loads graphs into ONNX Runtime. No other file imports onnxruntime-node. */
import ort from "onnxruntime-node";

export type Device = "cpu" | "webgpu";
export type Session = ort.InferenceSession;
export type SessionResults = ort.InferenceSession.ReturnType;
export type Tensor = ort.Tensor;
export type Elements = Float32Array | Int32Array | BigInt64Array | Int8Array | Uint8Array;

/** Types of views of a device's buffer. */
export type DeviceType = "float32" | "float16" | "int32";

interface SessionOptions {
  /** Threads for operators on the CPU. */
  threads: number;
  device?: Device;
  /** Rejects a graph with an operator that the device lacks. If false, the operator runs on the CPU. */
  onDeviceOnly?: boolean;
  /** Outputs stay on the device. The session then ignores output tensors that a run names. */
  outputsStay?: boolean;
  /** Logs everything, not only errors. */
  isVerbose?: boolean;
}

/** `model`: a serialised ModelProto or the path of one. Rejects if the device is not available. */
export function openSession(model: Uint8Array | string, options: SessionOptions): Promise<Session> {
  const settings: ort.InferenceSession.SessionOptions = {
    executionProviders: [options.device ?? "cpu"],
    graphOptimizationLevel: "all",
    intraOpNumThreads: options.threads,
    interOpNumThreads: 1,
    executionMode: "sequential",
    logSeverityLevel: options.isVerbose ? 0 : 3,
    extra: {
      session: {
        // Threads that spin briefly between operators make a step of two threads 9% faster. Spinning ends with the run, so that HTTP gets
        // enough time on machines with few cores.
        intra_op: { allow_spinning: "1", spin_duration_us: "20" },
        force_spinning_stop: "1",
        // Masked positions make denormal numbers in the softmax, with which the CPU is a hundred times slower than with zeros.
        set_denormal_as_zero: "1",
        disable_cpu_ep_fallback: options.onDeviceOnly ? "1" : "0",
      },
    },
    preferredOutputLocation: options.outputsStay ? "gpu-buffer" : undefined,
  };
  // `create` has no overload for the union of both types.
  return ort.InferenceSession.create(model as string, settings);
}

/** The tensor shares the array's memory. */
export function tensor(elements: Elements, shape: readonly number[], type?: "bool"): Tensor {
  return type ? new ort.Tensor(type, elements as Uint8Array, shape) : new ort.Tensor(elements as Float32Array, shape);
}

/** The first bytes in another type and shape. The buffer is freed with `whole`, not with the view. */
export function deviceView(whole: Tensor, shape: readonly number[], dataType: DeviceType): Tensor {
  return ort.Tensor.fromGpuBuffer(whole.gpuBuffer, { dataType, dims: shape });
}
