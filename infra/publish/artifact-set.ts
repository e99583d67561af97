/** Reads a folder of artifacts to be published, and refuses what edge or backend would refuse, by their own code. */
import { readFile } from "node:fs/promises";
import path from "node:path";
import { loadArtifacts } from "../../edge/assign/artifacts.ts";
import { generatedAdapters, servedBank } from "../../gpu-backend/adapters/generated.ts";
import { hyperNetworkFile, type Manifest, manifestFile, parseManifest } from "../../shared/artifacts/manifest.ts";
import { readTensorFile } from "../../shared/artifacts/tensor-file.ts";
import { sha256Hex } from "../../shared/sha256.ts";

export interface ArtifactSet {
  manifest: Manifest;
  manifestHash: string;
  /** Every file by its name, `manifest.json` the last. */
  files: Map<string, PublishedFile>;
}

export interface PublishedFile {
  sha256: string;
  bytes: Uint8Array<ArrayBuffer>;
}

/** Throws an Error that names the file and what is wrong with it. */
export async function readArtifactSet(directory: string): Promise<ArtifactSet> {
  const read = async (name: string) => {
    const bytes = await readFile(path.join(directory, name)).catch((cause) => {
      throw new Error(`cannot read ${path.join(directory, name)}; --artifacts names a folder that training wrote`, {
        cause,
      });
    });
    return Uint8Array.from(bytes);
  };
  const manifestBytes = await read(manifestFile);
  const manifest = parseManifest(new TextDecoder().decode(manifestBytes));
  const files = new Map<string, PublishedFile>();
  for (const [name, record] of Object.entries(manifest.files)) {
    if (path.basename(name) !== name) throw new Error(`manifest.json lists ${name}, which is not a name of a file`);
    const bytes = await read(name);
    const found = await sha256Hex(bytes);
    if (found !== record.sha256) {
      throw new Error(
        `${name} has ${bytes.length} bytes of SHA-256 ${found}; the manifest says ${record.bytes}, ${record.sha256}`,
      );
    }
    files.set(name, { sha256: found, bytes });
  }
  const manifestHash = await sha256Hex(manifestBytes);
  files.set(manifestFile, { sha256: manifestHash, bytes: manifestBytes });
  await requireServable(manifest, files);
  return { manifest, manifestHash, files };
}

async function requireServable(manifest: Manifest, files: ReadonlyMap<string, PublishedFile>): Promise<void> {
  await loadArtifacts(async (name) => files.get(name)!.bytes);
  const bytes = files.get(hyperNetworkFile)?.bytes;
  if (!bytes) throw new Error(`manifest.json does not list ${hyperNetworkFile}`);
  if (manifest.hyperNetwork.hash !== manifest.files[hyperNetworkFile].sha256) {
    throw new Error(`manifest.json: hyperNetwork.hash is not the hash of ${hyperNetworkFile}`);
  }
  const network = readTensorFile(bytes);
  servedBank(manifest, network);
  const adapters = generatedAdapters(manifest, network, async () => undefined);
  for (const { id } of manifest.centroids) await adapters.generate(id);
}
