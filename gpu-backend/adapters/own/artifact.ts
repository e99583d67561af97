import { createHash } from "node:crypto";
import { ownRank } from "../../../shared/artifacts/limits.ts";
import { staticId } from "../../../shared/artifacts/manifest.ts";
import {
  readTensorFile,
  requireFloats,
  requireTensor,
  type TensorFile,
  tensorFrom,
  writeTensorFile,
} from "../../../shared/artifacts/tensor-file.ts";
import { joinArrays } from "../../../shared/bytes.ts";
import { ServiceError } from "../../../shared/errors.ts";
import type { Delta } from "../../runtime/fit-session.ts";
import type { HiddenChange } from "../../runtime/step.ts";
import { type Adapter, type AdapterSource, recordBytes } from "../adapter.ts";

interface OwnAdapterShape {
  manifestHash: string;
  hiddenSize: number;
}

const what = "own adapter";

/** `delta` is null for an adapter that changes nothing. */
export function packOwnAdapter(delta: Delta | null, manifestHash: string): Uint8Array<ArrayBuffer> {
  const file: TensorFile = new Map([["manifest", tensorFrom(Buffer.from(manifestHash, "hex"), [32])]]);
  if (delta) {
    const D = delta.c.length;
    file.set("a", tensorFrom(delta.a, [ownRank, D]));
    file.set("b", tensorFrom(delta.b, [ownRank, D]));
    file.set("c", tensorFrom(delta.c, [D]));
  }
  return writeTensorFile(file);
}

/** Throws a ServiceError `adapter_outdated` for another manifest, an Error for invalid bytes. */
export function unpackOwnAdapter(bytes: Uint8Array, shape: OwnAdapterShape): Delta | null {
  const file = readTensorFile(bytes, what);
  const madeFor = Buffer.from(requireTensor(file, "manifest", "U8", [32], what).bytes).toString("hex");
  if (madeFor !== shape.manifestHash) {
    const why = `The adapter was made for manifest ${madeFor}, this backend serves ${shape.manifestHash}.`;
    throw new ServiceError("adapter_outdated", `${why} Create it again from its examples.`);
  }
  if (file.size === 1) return null;
  const D = shape.hiddenSize;
  const [a, b] = ["a", "b"].map((name) => requireFloats(file, name, [ownRank, D], what));
  return { a, b, c: requireFloats(file, "c", [D], what) };
}

/** The hash covers the tenant's name, so that equal files of two tenants have different hashes. */
export function ownAdapterHash(tenant: string, bytes: Uint8Array): string {
  return createHash("sha256").update(`${tenant}\n`).update(bytes).digest("hex");
}

/** Ids of centroids have no slash, so no centroid has this id. */
export function ownAdapterId(tenant: string, hash: string): string {
  return `${tenant}/${hash}`;
}

/** An own adapter also has the static adapter's gates. */
export function withOwnAdapters(
  generated: AdapterSource,
  store: { read(tenant: string, hash: string): Promise<Uint8Array | null> },
  shape: OwnAdapterShape,
): AdapterSource {
  const read = async (id: string): Promise<Adapter> => {
    const [tenant, hash] = id.split("/");
    const file = await store.read(tenant, hash);
    if (!file) throw new ServiceError("adapter_not_found", `There is no adapter ${hash} of this tenant.`);
    const delta = unpackOwnAdapter(file, shape);
    const bytes = file.length + recordBytes;
    if (!delta) return { hash, gates: null, changes: [], scale: 0, bytes };
    const fixed = generated.hashOf(staticId) === null ? null : await generated.generate(staticId);
    return {
      hash,
      gates: fixed?.gates ?? null,
      changes: [{ change: servedChange(delta), weight: 1 }],
      scale: 1,
      bytes,
    };
  };
  return {
    hashOf: (id) => (id.includes("/") ? id.split("/")[1] : generated.hashOf(id)),
    generate: (id) => (id.includes("/") ? read(id) : generated.generate(id)),
  };
}

/** The served layout has `a` transposed, and `c` after `b`. */
function servedChange({ a, b, c }: Delta): HiddenChange {
  const D = c.length;
  const turned = a.map((_, i) => a[(i % ownRank) * D + Math.floor(i / ownRank)]);
  return { a: turned, b: joinArrays(Float32Array, [b, c]) };
}
