/** Reads the bank of artifacts, with the scales that it is served at. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { edgeTableFile, hyperNetworkFile, isAutoOff, type Manifest } from "../../../shared/artifacts/manifest.ts";
import { readTensorFile } from "../../../shared/artifacts/tensor-file.ts";
import { type EdgeTable, readEdgeTable } from "../../../shared/math/assignment.ts";
import { bankOf, readHyperNetwork } from "../../adapters/generated/hyper-network.ts";
import type { Adapters } from "./measure.ts";

export interface ServedBank {
  table: EdgeTable;
  adapters: Adapters;
  /** 0 where the static adapter alone is served, [K]. */
  scales: Float32Array;
}

export async function readServedBank(artifacts: string, { centroids: records }: Manifest): Promise<ServedBank> {
  const file = readTensorFile(await readFile(join(artifacts, hyperNetworkFile)));
  const { table, centroids } = readEdgeTable(readTensorFile(await readFile(join(artifacts, edgeTableFile))));
  return {
    table,
    adapters: { bank: bankOf(file), network: readHyperNetwork(file), centroids },
    scales: Float32Array.from(records, (record) => (isAutoOff(record) ? 0 : record.scale)),
  };
}
