/** Generates adapters from the manifest's centroids with a hyper-network of either kind. */

import { createHash } from "node:crypto";
import { setLimits } from "../../shared/artifacts/limits.ts";
import {
  adapterIdentity,
  type CentroidRecord,
  hyperNetworkFile,
  type Manifest,
} from "../../shared/artifacts/manifest.ts";
import { requireTensor, type TensorFile, toFloat32 } from "../../shared/artifacts/tensor-file.ts";
import { ServiceError } from "../../shared/errors.ts";
import { powerOfTwo } from "../../shared/math/power-of-two.ts";
import type { PoolShape } from "../runtime/adapter-graph.ts";
import type { Bank } from "../runtime/step.ts";
import type { Adapter, AdapterSource, Directions } from "./adapter.ts";
import { directionsOf, readFullNetwork } from "./full-network.ts";
import { bankOf, gatesOf, readHyperNetwork } from "./hyper-network.ts";

/** Approximate memory of an adapter beside its values: an object, two strings, headers of typed arrays. */
const recordBytes = 512;
/** Rank of instant adapters, the only ones with directions when the hyper-network generates gates. */
const instantRank = 1;

type Parts = Pick<Adapter, "gates" | "directions">;
/** Generates the parts of an adapter from a centroid [P] and its scale. */
type Maker = (centroid: Float32Array, scale: number) => Promise<Parts>;

/**
 * Serves the centroids of `manifest` from hyper-network.safetensors. `pause` yields the thread; long generations
 * call it often. Throws an Error if the file's centroids or scales differ from the manifest's.
 */
export function generatedAdapters(manifest: Manifest, file: TensorFile, pause: () => Promise<void>): AdapterSource {
  const make = manifest.hyperNetwork.kind === "full" ? fullMaker(manifest, file, pause) : gatedMaker(file);
  const [K, P] = [manifest.centroids.length, manifest.embedding.dimensions];
  // Values are not checked here: NaN fails only that centroid's adapter.
  const vectors = toFloat32(requireTensor(file, "centroids", "F32", [K, P], hyperNetworkFile)); // [K, P]
  const scales = toFloat32(requireTensor(file, "scales", "F32", [K], hyperNetworkFile)); // [K]
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
      const { hash, vector, scale } = entry;
      const { gates, directions } = await make(vector, scale);
      if (gates) requireUsable(gates, "gate", centroidId);
      if (directions) {
        requireUsable(directions.a, "value of A", centroidId);
        requireUsable(directions.b, "value of B", centroidId);
      }
      const values = (gates?.length ?? 0) + (directions ? directions.a.length + directions.b.length : 0);
      return { hash, gates, directions, bias: null, scale, bytes: 4 * values + recordBytes };
    },
  };
}

/** The bank of the graph that serves `manifest`; without gates for the full kind. */
export function servedBank({ hyperNetwork }: Manifest, file: TensorFile): Bank {
  if (hyperNetwork.kind === "gated-bank") return bankOf(file);
  return { gates: 0, a: new Float32Array(0), a0: new Float32Array(0), b: new Float32Array(0) };
}

/**
 * The pool of the graph that serves `manifest`; null without slots. Throws an Error without slots if the manifest's adapters
 * need them. The rank is rounded up to a power of two: products are summed in blocks of a power of two, and a slot that
 * spans two blocks would be summed in another order than the others.
 */
export function servedPool({ hyperNetwork }: Manifest, slots: number): PoolShape | null {
  if (slots === 0) {
    if (hyperNetwork.kind === "gated-bank") return null;
    throw new Error(
      `ADAPTER_SLOTS is 0; the manifest's adapters are of kind "${hyperNetwork.kind}" and need 1 at least`,
    );
  }
  return { slots, rank: hyperNetwork.kind === "full" ? powerOfTwo(hyperNetwork.rank, 1) : instantRank };
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

function gatedMaker(file: TensorFile): Maker {
  const network = readHyperNetwork(file);
  return async (centroid, scale) => ({ gates: gatesOf(network, centroid, scale), directions: null });
}

/** Generates one adapter at a time, so that a step waits for at most one slice, whatever the number of requests. */
function fullMaker({ hyperNetwork, model, embedding }: Manifest, file: TensorFile, pause: () => Promise<void>): Maker {
  if (hyperNetwork.kind !== "full") throw new Error(`hyper-network of kind ${hyperNetwork.kind}, expected full`);
  const network = readFullNetwork(file, { ...model, ...embedding, ...hyperNetwork });
  let last: Promise<unknown> = Promise.resolve();
  return (centroid, scale) => {
    if (scale === 0) return Promise.resolve({ gates: null, directions: null });
    const made = last.then(() => inSlices(directionsOf(network, centroid, scale), pause));
    last = made.catch(() => {}); // only the caller gets the error, not the next generation
    return made.then((directions) => ({ gates: null, directions }));
  };
}

async function inSlices(slices: Generator<void, Directions>, pause: () => Promise<void>): Promise<Directions> {
  for (;;) {
    const { done, value } = slices.next();
    if (done) return value;
    await pause();
  }
}

/** Throws a ServiceError that names the centroid and the first value that is NaN or beyond the limit. */
function requireUsable(values: Float32Array, what: string, centroidId: string): void {
  const bad = values.findIndex((value) => !(Math.abs(value) <= setLimits.tensorValue));
  if (bad < 0) return;
  throw new ServiceError(
    "generation_failed",
    `Centroid ${centroidId} has no usable adapter: ${what} ${bad} is ${values[bad]}, the bound is ±${setLimits.tensorValue}.`,
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

function adapterHash(manifest: Manifest, record: CentroidRecord): string {
  return createHash("sha256").update(adapterIdentity(manifest, record)).digest("hex");
}
