/** Reads a folder of artifacts. Checks it with the code by which edge and backend load it. */
import path from "node:path";
import { type Artifacts, loadArtifacts } from "../../edge/artifacts/artifacts.ts";
import { generatedAdapters } from "../../gpu-backend/adapters/generated/generated.ts";
import { bankOf, requireHyperNetwork } from "../../gpu-backend/adapters/generated/hyper-network.ts";
import { readFileAtMost } from "../../gpu-backend/files.ts";
import { readExcerpts } from "../../gpu-backend/memory/centroid-memories.ts";
import { setLimits } from "../../shared/artifacts/limits.ts";
import {
  edgeTableFile,
  filesOf,
  hyperNetworkFile,
  type Manifest,
  manifestFile,
  memoriesFile,
  parseManifest,
} from "../../shared/artifacts/manifest.ts";
import { requireFile } from "../../shared/artifacts/set-file.ts";
import { readTensorFile, type TensorFile, tensorOf, toFloat32 } from "../../shared/artifacts/tensor-file.ts";
import { sha256Hex } from "../../shared/bytes.ts";

export interface ArtifactSet {
  manifest: Manifest;
  manifestHash: string;
  /** By file name. `manifest.json` is the last entry. */
  files: Map<string, PublishedFile>;
}

export interface PublishedFile {
  sha256: string;
  bytes: Uint8Array<ArrayBuffer>;
}

export async function readArtifactSet(directory: string): Promise<ArtifactSet> {
  const read = (name: string, maxBytes: number) =>
    readFileAtMost(path.join(directory, name), maxBytes).catch((cause) => {
      throw new Error(`cannot read ${path.join(directory, name)}; --artifacts names a folder that training wrote`, {
        cause,
      });
    });
  const manifestBytes = await read(manifestFile, setLimits.manifestBytes);
  const manifest = parseManifest(new TextDecoder().decode(manifestBytes));
  const files = new Map<string, PublishedFile>();
  for (const [name, record] of filesOf(manifest)) {
    const bytes = await read(name, record.bytes);
    await requireFile(name, bytes, record);
    files.set(name, { sha256: record.sha256, bytes });
  }
  const manifestHash = await sha256Hex(manifestBytes);
  files.set(manifestFile, { sha256: manifestHash, bytes: manifestBytes });
  await requireServable(manifest, files);
  return { manifest, manifestHash, files };
}

async function requireServable(manifest: Manifest, files: ReadonlyMap<string, PublishedFile>): Promise<void> {
  const edge = await loadArtifacts(async (name) => files.get(name)!.bytes);
  const network = readTensorFile(files.get(hyperNetworkFile)!.bytes, hyperNetworkFile);
  requireHyperNetwork(manifest, network);
  requireSameCentroids(edge, network);
  bankOf(network);
  const adapters = generatedAdapters(manifest, network);
  for (const { id } of manifest.centroids) await adapters.generate(id);
  const memories = files.get(memoriesFile);
  if (memories) readExcerpts(readTensorFile(memories.bytes, memoriesFile), manifest);
}

/** Compares the edge's copy of the centroids with the backend's. The manifest's hashes cover the backend's copy only. */
function requireSameCentroids({ centroids }: Artifacts, network: TensorFile): void {
  const backends = toFloat32(tensorOf(network, "centroids"));
  const other = centroids.vectors.findIndex((value, i) => value !== backends[i]);
  if (other < 0) return;
  throw new Error(
    `${edgeTableFile}: centroids: value ${other} is ${centroids.vectors[other]}, ${hyperNetworkFile} has ${backends[other]}`,
  );
}
