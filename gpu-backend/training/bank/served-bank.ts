/** A bank as it is served, whether it was trained just now or is read from artifacts. */
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

export async function readServedBank(
  artifacts: string,
  { hyperNetwork, centroids: records }: Manifest,
): Promise<ServedBank> {
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
