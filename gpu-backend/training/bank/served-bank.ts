import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  edgeTableFile,
  hyperNetworkFile,
  isAutoOff,
  manifestFile,
  memoriesFile,
  parseManifest,
  type SetFile,
} from "../../../shared/artifacts/manifest.ts";
import { readTensorFile } from "../../../shared/artifacts/tensor-file.ts";
import { readEdgeTable } from "../../../shared/math/assignment.ts";
import { bankOf, readHyperNetwork } from "../../adapters/generated/hyper-network.ts";
import { readExcerpts } from "../../memory/centroid-memories.ts";

export type ServedBank = Awaited<ReturnType<typeof readServedBank>>;

/** `scales` [K] has 0 for centroids that are off. `manifestHash` is manifest.json's SHA-256. */
export async function readServedBank(artifacts: string) {
  const json = await readFile(join(artifacts, manifestFile), "utf8");
  const manifest = parseManifest(json);
  const tensorsOf = async (name: SetFile) => readTensorFile(await readFile(join(artifacts, name)), name);
  const file = await tensorsOf(hyperNetworkFile);
  const { table, centroids } = readEdgeTable(await tensorsOf(edgeTableFile));
  return {
    manifest,
    manifestHash: createHash("sha256").update(json).digest("hex"),
    table,
    adapters: { bank: bankOf(file), network: readHyperNetwork(file), centroids },
    /** Excerpts of each centroid's memory, [K]. */
    memories: manifest.files[memoriesFile]
      ? readExcerpts(await tensorsOf(memoriesFile), manifest)
      : manifest.centroids.map(() => []),
    scales: Float32Array.from(manifest.centroids, (record) => (isAutoOff(record) ? 0 : record.scale)),
  };
}
