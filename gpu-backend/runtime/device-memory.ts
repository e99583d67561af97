/** ONNX Runtime does not document that an output may be written into a buffer that the run also reads. The self-test checks it. */
import { buildFill } from "./device-graph.ts";
import { nodesOnCpu } from "./placement.ts";
import {
  type DeviceType,
  deviceView,
  type Elements,
  openSession,
  type Session,
  type SessionResults,
  type Tensor,
  tensor,
} from "./session.ts";

/** A buffer of 32-bit elements. */
export interface DeviceBuffer {
  readonly tensor: Tensor;
  readonly elements: number;
}

export class DeviceMemory {
  readonly #threads: number;
  readonly #fill: Session;
  readonly #sessions: Session[] = [];
  readonly #buffers = new Set<DeviceBuffer>();
  readonly traffic = { upBytes: 0, downBytes: 0, runs: 0 };

  private constructor(threads: number, fill: Session) {
    this.#threads = threads;
    this.#fill = fill;
    this.#sessions.push(fill);
  }

  static async open(threads: number): Promise<DeviceMemory> {
    return new DeviceMemory(threads, await openSession(buildFill(), { threads, device: "webgpu", outputsStay: true }));
  }

  get bytes(): number {
    return 4 * this.#buffers.values().reduce((sum, { elements }) => sum + elements, 0);
  }

  get buffers(): number {
    return this.#buffers.size;
  }

  /** Without `values`, the buffer is filled with zeros. */
  async allocate(elements: number, values: Float32Array = Float32Array.of(0)): Promise<DeviceBuffer> {
    const feeds = { x: tensor(values, [values.length]), shape: tensor(BigInt64Array.of(BigInt(elements)), [1]) };
    const buffer = { tensor: (await this.run(this.#fill, feeds, ["y"])).y, elements };
    this.#buffers.add(buffer);
    return buffer;
  }

  free(buffer: DeviceBuffer): void {
    if (this.#buffers.delete(buffer)) buffer.tensor.dispose();
  }

  /** Throws an Error that names the nodes for which the device has no kernel. */
  async session(graph: Uint8Array): Promise<Session> {
    const options = { threads: this.#threads, device: "webgpu", onDeviceOnly: true } as const;
    const session = await openSession(graph, options).catch(async (cause: unknown) => {
      const nodes = await nodesOnCpu(graph).catch(() => []);
      throw nodes.length > 0 ? new Error(`WebGPU has no kernel for ${nodes.join(", ")}`, { cause }) : cause;
    });
    this.#sessions.push(session);
    return session;
  }

  /** `fetched` outputs move to the host. `written` names the device buffers that other outputs are written to. */
  async run(
    session: Session,
    feeds: Readonly<Record<string, Tensor>>,
    fetched: readonly string[],
    written: Readonly<Record<string, Tensor>> = {},
  ): Promise<SessionResults> {
    const outputs: Record<string, Tensor | null> = { ...written };
    for (const name of fetched) outputs[name] = null;
    const results = await session.run(feeds, outputs);
    this.traffic.runs++;
    this.traffic.upBytes += hostBytes(Object.values(feeds));
    this.traffic.downBytes += hostBytes(fetched.map((name) => results[name]));
    return results;
  }

  async release(): Promise<void> {
    for (const buffer of this.#buffers) this.free(buffer);
    for (const session of this.#sessions) await session.release();
  }
}

export function view(buffer: DeviceBuffer, ...shape: number[]): Tensor {
  return viewAs("float32", buffer, ...shape);
}

export function viewAs(type: DeviceType, { tensor: whole }: DeviceBuffer, ...shape: number[]): Tensor {
  return deviceView(whole, shape, type);
}

export function copyFeeds(from: readonly number[], to: readonly number[]): { from: Tensor; to: Tensor } {
  return {
    from: tensor(Int32Array.from(from), [from.length]),
    to: tensor(BigInt64Array.from(to, BigInt), [to.length, 1]),
  };
}

function hostBytes(tensors: readonly Tensor[]): number {
  const onHost = tensors.filter(({ location }) => location === "cpu");
  return onHost.reduce((sum, { data }) => sum + (data as Elements).byteLength, 0);
}
