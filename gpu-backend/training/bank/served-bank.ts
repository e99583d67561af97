/** Reads the bank of artifacts, with the scales that it is served at. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { edgeTableFile, hyperNetworkFile, isAutoOff, type Manifest } from "../../../shared/artifacts/manifest.ts";
import { readTensorFile, tensorOf, toFloat32 } from "../../../shared/artifacts/tensor-file.ts";
import { type EdgeTable, readEdgeTable } from "../../../shared/math/assignment.ts";
import { gatesOf, readHyperNetwork } from "../../adapters/generated/hyper-network.ts";
import type { Adapters } from "./measure.ts";
import { type BankShape, bankShape } from "./parameters.ts";

export interface ServedBank {
  shape: BankShape;
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
    scales: Float32Array.from(records, (record) => (isAutoOff(record) ? 0 : record.scale)),
  };
}
