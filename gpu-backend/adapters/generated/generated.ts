/** Makes the adapters of centroids and the static adapter. Every centroid's gates include the static gates. */
import { createHash } from "node:crypto";
import { setLimits } from "../../../shared/artifacts/limits.ts";
import {
  adapterIdentity,
  type CentroidRecord,
  hyperNetworkFile,
  type Manifest,
  staticId,
} from "../../../shared/artifacts/manifest.ts";
import { requireTensor, type TensorFile, toFloat32 } from "../../../shared/artifacts/tensor-file.ts";
import { ServiceError } from "../../../shared/errors.ts";
import { type Adapter, type AdapterSource, recordBytes } from "../adapter.ts";
import { gatesOf, readHyperNetwork } from "./hyper-network.ts";

/** `file` is hyper-network.safetensors. Throws an Error if its centroids or scales differ from the manifest's. */
export function generatedAdapters(manifest: Manifest, file: TensorFile): AdapterSource {
  const network = readHyperNetwork(file);
  const [K, P] = [manifest.centroids.length, manifest.embedding.dimensions];
  // Values are checked when an adapter is made, so that NaN fails only one centroid's adapter.
  const vectors = toFloat32(requireTensor(file, "centroids", "F32", [K, P], hyperNetworkFile)); // [K, P]
  const scales = toFloat32(requireTensor(file, "scales", "F32", [K], hyperNetworkFile)); // [K]
  const entries = new Map<string, { vector: Float32Array | null; scale: number; hash: string }>(
    manifest.centroids.map((record, index) => {
      const vector = vectors.subarray(index * P, (index + 1) * P);
      checkCentroid(record, vector, scales[index]);
      return [record.id, { vector, scale: scales[index], hash: adapterHash(manifest, record.hash) }];
    }),
  );
  if (manifest.static) entries.set(staticId, { vector: null, scale: 1, hash: adapterHash(manifest, staticId) });
  return {
    hashOf: (id) => entries.get(id)?.hash ?? null,
    async generate(id): Promise<Adapter> {
      const entry = entries.get(id);
      if (!entry) throw new Error(`no adapter ${id}; there are ${[...entries.keys()].join(", ")}`);
      const { hash, vector, scale } = entry;
      const gates = vector ? gatesOf(network, vector, scale) : network.staticGates;
      requireUsable(gates, id);
      const isBase = gates.every((gate) => gate === 0);
      return { hash, gates: isBase ? null : gates, changes: [], scale, bytes: gates.byteLength + recordBytes };
    },
  };
}

/** SHA-256 of a centroid's vector [P] and scale as little-endian float32. */
export function centroidHash(vector: Float32Array, scale: number): string {
  const bytes = new DataView(new ArrayBuffer(4 * (vector.length + 1)));
  vector.forEach((value, p) => {
    bytes.setFloat32(4 * p, value, true);
  });
  bytes.setFloat32(4 * vector.length, scale, true);
  return createHash("sha256").update(bytes).digest("hex");
}

function requireUsable(gates: Float32Array, id: string): void {
  const bad = gates.findIndex((value) => !(Math.abs(value) <= setLimits.tensorValue));
  if (bad < 0) return;
  throw new ServiceError(
    "generation_failed",
    `Adapter ${id} is not usable: gate ${bad} is ${gates[bad]}, the bound is ±${setLimits.tensorValue}.`,
  );
}

function checkCentroid(record: CentroidRecord, vector: Float32Array, scale: number): void {
  if (Math.fround(record.scale) !== scale) {
    throw new Error(
      `centroid ${record.id} of hyper-network.safetensors has scale ${scale}, manifest.json ${record.scale}`,
    );
  }
  const found = centroidHash(vector, scale);
  if (found !== record.hash) {
    throw new Error(
      `centroid ${record.id} of hyper-network.safetensors has hash ${found}, manifest.json ${record.hash}`,
    );
  }
}

function adapterHash(manifest: Manifest, source: string): string {
  return createHash("sha256").update(adapterIdentity(manifest, source)).digest("hex");
}
