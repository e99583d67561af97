/**
 * An own adapter as bytes and as an adapter of the engine: a safetensors file (layout: shared/artifacts/FORMAT.md) whose hash
 * includes the tenant. Not here: where files are kept.
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
import type { Adapter, AdapterSource } from "../adapter.ts";

export type OwnAdapterParts = Pick<Adapter, "gates" | "bias">;

/** The manifest that an adapter must be made for, with its gates Q and vocabulary V. */
export interface OwnAdapterShape {
  manifestHash: string;
  gates: number;
  vocabularySize: number;
}

const what = "own adapter";

export function packOwnAdapter({ gates, bias }: OwnAdapterParts, manifestHash: string): Uint8Array<ArrayBuffer> {
  const file: TensorFile = new Map([["manifest", tensorFrom(Buffer.from(manifestHash, "hex"), [32])]]);
  if (gates) file.set("gates", tensorFrom(gates, [gates.length]));
  if (bias) {
    file.set("bias_ids", tensorFrom(bias.ids, [bias.ids.length]));
    file.set("bias_values", tensorFrom(bias.values, [bias.values.length]));
  }
  return writeTensorFile(file);
}

/** Throws a ServiceError "adapter_outdated" for an adapter of another manifest, an Error for invalid bytes. */
export function unpackOwnAdapter(bytes: Uint8Array, shape: OwnAdapterShape): OwnAdapterParts {
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
export function ownAdapterHash(tenant: string, bytes: Uint8Array): string {
  return createHash("sha256").update(`${tenant}\n`).update(bytes).digest("hex");
}

function biasOf(file: TensorFile, V: number): OwnAdapterParts["bias"] {
  if (!file.has("bias_ids")) return null;
  const { bytes } = requireTensor(file, "bias_ids", "I32", [null], what);
  const ids = new Int32Array(alignedCopy(bytes));
  const isRising = ids.every((id, i) => id < V && id > (i === 0 ? -1 : ids[i - 1]));
  if (!isRising) throw new Error(`${what}: bias_ids: not rising token ids below ${V}`);
  return { ids, values: requireFloats(file, "bias_values", [ids.length], what) };
}

/** What the engine calls a tenant's adapter; no centroid's id has a slash. */
export function ownAdapterId(tenant: string, hash: string): string {
  return `${tenant}/${hash}`;
}

/** Approximate memory of the record beside its arrays, as in generated.ts. */
const recordBytes = 512;

/** The bytes of an adapter; null if it is missing. */
interface OwnAdapterReader {
  read(tenant: string, hash: string): Promise<Uint8Array | null>;
}

export function withOwnAdapters(
  generated: AdapterSource,
  store: OwnAdapterReader,
  shape: OwnAdapterShape,
): AdapterSource {
  return {
    hashOf: (id) => (id.includes("/") ? id.split("/")[1] : generated.hashOf(id)),
    generate: (id) => (id.includes("/") ? read(id, store, shape) : generated.generate(id)),
  };
}

async function read(id: string, store: OwnAdapterReader, shape: OwnAdapterShape): Promise<Adapter> {
  const [tenant, hash] = id.split("/");
  const bytes = await store.read(tenant, hash);
  if (!bytes) throw new ServiceError("adapter_not_found", `There is no adapter ${hash} of this tenant.`);
  const parts = unpackOwnAdapter(bytes, shape);
  const isBase = !parts.gates && !parts.bias;
  return { hash, ...parts, scale: isBase ? 0 : 1, bytes: bytes.length + recordBytes };
}
