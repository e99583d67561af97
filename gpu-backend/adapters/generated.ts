/** Adapters that the hyper-network generates from the manifest's centroids. */
import { createHash } from "node:crypto";
import { adapterIdentity, type CentroidRecord, type Manifest } from "../../shared/artifacts/manifest.ts";
import { type TensorFile, tensorOf, toFloat32 } from "../../shared/artifacts/tensor-file.ts";
import type { Adapter, AdapterSource } from "./adapter.ts";
import { gatesOf, readHyperNetwork } from "./hyper-network.ts";

/** About what V8 takes for the record beside its gates: an object, two strings, a typed array's header. */
const recordBytes = 512;

/**
 * Serves the centroids of `manifest` from hyper-network.safetensors.
 * Throws an Error where the file's centroids or scales are not the manifest's.
 */
export function generatedAdapters(manifest: Manifest, file: TensorFile): AdapterSource {
  const network = readHyperNetwork(file);
  const vectors = toFloat32(tensorOf(file, "centroids")); // [K, P]
  const scales = toFloat32(tensorOf(file, "scales")); // [K]
  const P = network.dimensions;
  const entries = new Map(
    manifest.centroids.map((record, index) => {
      const vector = vectors.subarray(index * P, (index + 1) * P);
      checkCentroid(record, vector, scales[index]);
      return [record.id, { vector, scale: scales[index], hash: adapterHash(manifest, record) }];
    }),
  );
  return {
    hashOf: (centroidId) => entries.get(centroidId)?.hash ?? null,
    async generate(centroidId): Promise<Adapter> {
      const entry = entries.get(centroidId);
      if (!entry) throw new Error(`no centroid ${centroidId}; there are ${[...entries.keys()].join(", ")}`);
      const gates = gatesOf(network, entry.vector, entry.scale);
      return {
        hash: entry.hash,
        centroidId,
        gates,
        directions: null,
        scale: entry.scale,
        bytes: gates.byteLength + recordBytes,
      };
    },
  };
}

/** SHA-256 of a centroid's vector [P] and scale, little-endian float32: `hash` of its manifest record. */
export function centroidHash(vector: Float32Array, scale: number): string {
  const bytes = new DataView(new ArrayBuffer(4 * (vector.length + 1)));
  vector.forEach((value, p) => {
    bytes.setFloat32(4 * p, value, true);
  });
  bytes.setFloat32(4 * vector.length, scale, true);
  return createHash("sha256").update(bytes).digest("hex");
}

function checkCentroid(record: CentroidRecord, vector: Float32Array, scale: number): void {
  const found = centroidHash(vector, scale);
  if (found !== record.hash) {
    throw new Error(
      `centroid ${record.id} of hyper-network.safetensors has hash ${found}, manifest.json ${record.hash}`,
    );
  }
}

function adapterHash(manifest: Manifest, record: CentroidRecord): string {
  return createHash("sha256").update(adapterIdentity(manifest, record)).digest("hex");
}
