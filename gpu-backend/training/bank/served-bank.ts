import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  edgeTableFile,
  hyperNetworkFile,
  isAutoOff,
  manifestFile,
  parseManifest,
} from "../../../shared/artifacts/manifest.ts";
import { readTensorFile } from "../../../shared/artifacts/tensor-file.ts";
import { readEdgeTable } from "../../../shared/math/assignment.ts";
import { bankOf, readHyperNetwork } from "../../adapters/generated/hyper-network.ts";

export type ServedBank = Awaited<ReturnType<typeof readServedBank>>;

/** `scales` [K] has 0 for centroids that are off. `manifestHash` is manifest.json's SHA-256. */
export async function readServedBank(artifacts: string) {
  const json = await readFile(join(artifacts, manifestFile), "utf8");
  const manifest = parseManifest(json);
  const file = readTensorFile(await readFile(join(artifacts, hyperNetworkFile)));
  const { table, centroids } = readEdgeTable(readTensorFile(await readFile(join(artifacts, edgeTableFile))));
  return {
    manifest,
    manifestHash: createHash("sha256").update(json).digest("hex"),
    table,
    adapters: { bank: bankOf(file), network: readHyperNetwork(file), centroids },
    scales: Float32Array.from(manifest.centroids, (record) => (isAutoOff(record) ? 0 : record.scale)),
  };
}
