/**
 * The bytes of an instant adapter: a safetensors file (layout: FORMAT.md), named by a hash that is the tenant's own.
 * Not here: where files are kept.
 */
import { createHash } from "node:crypto";
import {
  alignedCopy,
  readTensorFile,
  requireFloats,
  requireTensor,
  type TensorFile,
  tensorFrom,
  writeTensorFile,
} from "../../../shared/artifacts/tensor-file.ts";
import { ServiceError } from "../../../shared/errors.ts";
import type { Adapter } from "../adapter.ts";

export type InstantParts = Pick<Adapter, "gates" | "bias">;

/** What an adapter must fit: the manifest it was made for, Q gates, hidden size D and vocabulary V. */
export interface InstantShape {
  manifestHash: string;
  gates: number;
  vocabularySize: number;
}

const what = "instant adapter";

export function packInstant({ gates, bias }: InstantParts, manifestHash: string): Uint8Array<ArrayBuffer> {
  const file: TensorFile = new Map([["manifest", tensorFrom(Buffer.from(manifestHash, "hex"), [32])]]);
  if (gates) file.set("gates", tensorFrom(gates, [gates.length]));
  if (bias) {
    file.set("bias_ids", tensorFrom(bias.ids, [bias.ids.length]));
    file.set("bias_values", tensorFrom(bias.values, [bias.values.length]));
  }
  return writeTensorFile(file);
}

/**
 * Throws a ServiceError "adapter_outdated" for one of another manifest, an Error for bytes
 * that are no such file.
 */
export function unpackInstant(bytes: Uint8Array, shape: InstantShape): InstantParts {
  const file = readTensorFile(bytes, what);
  const madeFor = Buffer.from(requireTensor(file, "manifest", "U8", [32], what).bytes).toString("hex");
  if (madeFor !== shape.manifestHash) {
    throw outdated(`The adapter was made for manifest ${madeFor}, this backend serves ${shape.manifestHash}.`);
  }
  return {
    gates: file.has("gates") ? requireFloats(file, "gates", [shape.gates], what) : null,
    bias: biasOf(file, shape.vocabularySize),
  };
}

function outdated(why: string): ServiceError {
  return new ServiceError("adapter_outdated", `${why} Create it again from its examples.`);
}

/** SHA-256 of the tenant's id, a line feed and the bytes: equal bytes of two tenants have nothing in common. */
export function instantHash(tenant: string, bytes: Uint8Array): string {
  return createHash("sha256").update(`${tenant}\n`).update(bytes).digest("hex");
}

function biasOf(file: TensorFile, V: number): InstantParts["bias"] {
  if (!file.has("bias_ids")) return null;
  const { bytes } = requireTensor(file, "bias_ids", "I32", [null], what);
  const ids = new Int32Array(alignedCopy(bytes));
  const isRising = ids.every((id, i) => id < V && id > (i === 0 ? -1 : ids[i - 1]));
  if (!isRising) throw new Error(`${what}: bias_ids: not rising token ids below ${V}`);
  return { ids, values: requireFloats(file, "bias_values", [ids.length], what) };
}
