/**
 * The bytes of an instant adapter: a safetensors file (layout: FORMAT.md), named by a hash that is the tenant's own.
 * Not here: where files are kept.
 */
import { createHash } from "node:crypto";
import {
  readTensorFile,
  type Tensor,
  type TensorFile,
  tensorFrom,
  tensorOf,
  toFloat32,
  writeTensorFile,
} from "../../../shared/artifacts/tensor-file.ts";
import { ServiceError } from "../../../shared/errors.ts";
import type { Adapter } from "../adapter.ts";

export type InstantParts = Pick<Adapter, "gates" | "bias" | "directions">;

/** What an adapter must fit: the manifest it was made for, Q gates, hidden size D and vocabulary V. */
export interface InstantShape {
  manifestHash: string;
  gates: number;
  hiddenSize: number;
  vocabularySize: number;
}

/** As in generated.ts: a value beyond it could overflow in a mate's sums. */
const largestValue = 1e6;

export function packInstant({ gates, bias, directions }: InstantParts, manifestHash: string): Uint8Array<ArrayBuffer> {
  const file: TensorFile = new Map([["manifest", tensorFrom(Buffer.from(manifestHash, "hex"), [32])]]);
  if (gates) file.set("gates", tensorFrom(gates, [gates.length]));
  if (bias) {
    file.set("bias_ids", tensorFrom(bias.ids, [bias.ids.length]));
    file.set("bias_values", tensorFrom(bias.values, [bias.values.length]));
  }
  if (directions) {
    const { rank, a, b } = directions;
    file.set("a", tensorFrom(a, [rank, a.length / rank]));
    file.set("b", tensorFrom(b, [rank, b.length / rank]));
  }
  return writeTensorFile(file);
}

/** Throws a ServiceError "adapter_outdated" for one of another manifest, an Error for bytes that are no such file. */
export function unpackInstant(bytes: Uint8Array, shape: InstantShape): InstantParts {
  const file = readTensorFile(bytes);
  const madeFor = Buffer.from(tensorOf(file, "manifest").bytes).toString("hex");
  if (madeFor !== shape.manifestHash) {
    throw new ServiceError(
      "adapter_outdated",
      `The adapter was made for manifest ${madeFor}, this backend serves ${shape.manifestHash}. Create it again from its examples.`,
    );
  }
  const gates = file.get("gates");
  return {
    gates: gates ? floats("gates", gates, [shape.gates]) : null,
    bias: biasOf(file, shape.vocabularySize),
    directions: directionsOf(file, shape),
  };
}

/** SHA-256 of the tenant's id, a line feed and the bytes: equal bytes of two tenants have nothing in common. */
export function instantHash(tenant: string, bytes: Uint8Array): string {
  return createHash("sha256").update(`${tenant}\n`).update(bytes).digest("hex");
}

function biasOf(file: TensorFile, V: number): InstantParts["bias"] {
  const tensor = file.get("bias_ids");
  if (!tensor) return null;
  const ids = new Int32Array(new Uint8Array(tensor.bytes).buffer);
  const isRising = ids.every((id, i) => id < V && id > (i === 0 ? -1 : ids[i - 1]));
  if (tensor.dtype !== "I32" || !isRising) throw new Error(`bias_ids: not rising token ids below ${V}`);
  return { ids, values: floats("bias_values", tensorOf(file, "bias_values"), [ids.length]) };
}

function directionsOf(
  file: TensorFile,
  { hiddenSize: D, vocabularySize: V }: InstantShape,
): InstantParts["directions"] {
  const a = file.get("a");
  if (!a) return null;
  const rank = a.shape[0];
  return { rank, a: floats("a", a, [rank, D]), b: floats("b", tensorOf(file, "b"), [rank, V]) };
}

function floats(name: string, tensor: Tensor, shape: number[]): Float32Array<ArrayBuffer> {
  if (tensor.shape.join() !== shape.join()) throw new Error(`${name} is [${tensor.shape}], expected [${shape}]`);
  const values = toFloat32(tensor);
  const bad = values.findIndex((value) => !(Math.abs(value) <= largestValue));
  if (bad >= 0) throw new Error(`${name}: value ${bad} is ${values[bad]}, the bound is ±${largestValue}`);
  return values;
}
