/** A bank as it is served, whether it was trained just now or is read from artifacts. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  type CentroidRecord,
  edgeTableFile,
  hyperNetworkFile,
  isAutoOff,
  type Manifest,
} from "../../../shared/artifacts/manifest.ts";
import { readTensorFile, tensorOf, toFloat32 } from "../../../shared/artifacts/tensor-file.ts";
import { type EdgeTable, readEdgeTable } from "../../../shared/math/assignment.ts";
import { gatesOf, readHyperNetwork } from "../../adapters/hyper-network.ts";
import type { Adapters } from "./measure.ts";
import { type BankShape, bankShape } from "./parameters.ts";

export interface ServedBank {
  shape: BankShape;
  /** Embeds a prompt among the adapters' centroids. */
  table: EdgeTable;
  adapters: Adapters;
  /** 0 where the base is served instead, [K]. */
  scales: Float32Array;
}

/** Throws an Error where the artifacts are of another kind than a gated bank. */
export async function readServedBank(
  artifacts: string,
  { hyperNetwork, centroids: records }: Manifest,
): Promise<ServedBank> {
  if (hyperNetwork.kind !== "gated-bank") throw new Error(`${artifacts} are not of a gated bank`);
  const file = readTensorFile(await readFile(join(artifacts, hyperNetworkFile)));
  const { table, centroids } = readEdgeTable(readTensorFile(await readFile(join(artifacts, edgeTableFile))));
  const network = readHyperNetwork(file);
  const P = centroids.dimensions;
  return {
    shape: bankShape({ ...hyperNetwork, dimensions: P }),
    table,
    adapters: {
      parameters: new Map((["a", "b"] as const).map((name) => [name, toFloat32(tensorOf(file, name))])),
      centroids,
      gatesAt: (k, scale) => gatesOf(network, centroids.vectors.subarray(k * P, (k + 1) * P), scale),
    },
    scales: servedScales(records),
  };
}

/** The scales that centroids are served at, [K]. */
export function servedScales(centroids: readonly Pick<CentroidRecord, "scale" | "gain">[]): Float32Array {
  return Float32Array.from(centroids, (centroid) => (isAutoOff(centroid) ? 0 : centroid.scale));
}

/** Hash of all that answers depend on: equal hashes mean equal probabilities. */
export function hashOfBank({ table, adapters, scales }: ServedBank): string {
  const hash = createHash("sha256");
  const { parameters, centroids } = adapters;
  const gates = Array.from(scales, (scale, k) => adapters.gatesAt(k, scale));
  for (const array of [
    ...[table.rows, table.rowScales, centroids.vectors, scales],
    ...[parameters.get("a")!, parameters.get("b")!, ...gates],
  ]) {
    hash.update(new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
  }
  return hash.digest("hex");
}
