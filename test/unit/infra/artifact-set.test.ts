/** Folders that the publish command reads: what edge or backend would refuse is refused before anything is sent. */
import { appendFile, cp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import path from "node:path";
import { expect, test } from "vitest";
import { readArtifactSet } from "../../../infra/publish/artifact-set.ts";
import { readTensorFile, tensorOf } from "../../../shared/artifacts/tensor-file.ts";
import { sha256Hex } from "../../../shared/bytes.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";
import { writeTinyModel } from "../../support/tiny-model.ts";

const folder = temporaryFolder();
const artifacts = (name: string) => path.join(folder, name, "artifacts");
await writeTinyModel(path.join(folder, "first"));
const first = await readArtifactSet(artifacts("first"));

interface EditableManifest {
  centroids: { label: string[] }[];
  model: object;
  files: Record<string, object>;
  hyperNetwork: object;
}

const bankFile = "hyper-network.safetensors";

/** Changes the first value of a tensor of the hyper-network, and updates the hashes in the manifest. */
async function setFloat(directory: string, tensor: string, value: number): Promise<void> {
  const file = path.join(directory, bankFile);
  const bytes = await readFile(file);
  const { bytes: found } = tensorOf(readTensorFile(bytes), tensor);
  new DataView(found.buffer, found.byteOffset).setFloat32(0, value, true);
  await writeFile(file, bytes);
  const hash = await sha256Hex(bytes);
  await edit(directory, (manifest) => {
    Object.assign(manifest.hyperNetwork, { hash });
    Object.assign(manifest.files[bankFile], { sha256: hash });
  });
}

async function flipLastByte(directory: string): Promise<void> {
  const file = path.join(directory, bankFile);
  const bytes = await readFile(file);
  bytes[bytes.length - 1] ^= 1;
  await writeFile(file, bytes);
}

async function edit(directory: string, change: (manifest: EditableManifest) => unknown): Promise<void> {
  const file = path.join(directory, "manifest.json");
  const manifest = JSON.parse(await readFile(file, "utf8"));
  change(manifest);
  await writeFile(file, JSON.stringify(manifest));
}

const change = (part: "model" | "hyperNetwork", changed: object) => (directory: string) =>
  edit(directory, (manifest) => Object.assign(manifest[part], changed));
const lengthen = (d: string) => appendFile(path.join(d, "edge-table.safetensors"), "x".repeat(1e6));
const damaged: [string, (directory: string) => Promise<unknown>, RegExp][] = [
  ["with a file that is not there", (d) => rm(path.join(d, "edge-table.safetensors")), /cannot read.*edge-table/],
  ["with a changed byte", flipLastByte, /hyper-network\.safetensors has .* SHA-256/],
  ["whose manifest says otherwise", change("model", { vocabularySize: 1000 }), /300.*1000/],
  ["of another format", (d) => edit(d, (m) => Object.assign(m, { format: 2 })), /format/],
  ["of other centroids", (d) => edit(d, (m) => m.centroids.pop()), /centroids/],
  ["of another rank than its bank", change("hyperNetwork", { rank: 7 }), /w2 is/],
  ["of another scale", (d) => edit(d, (m) => Object.assign(m.centroids[0], { scale: 0.5 })), /c0.* scale 1.* 0\.5/],
  ["whose bank holds an infinite value", (d) => setFloat(d, "b", Number.POSITIVE_INFINITY), /b: value 0 is Infinity/],
  ["whose bank overflows", (d) => setFloat(d, "a", 1e30), /a: value 0 is .*1000000/],
  ["whose file is longer than declared", lengthen, /edge-table\.safetensors has more than the \d+ bytes/],
];
test.each(damaged)("a set %s is refused before anything is sent", async (_, damage, message) => {
  const directory = artifacts("damaged");
  await cp(artifacts("first"), directory, { recursive: true });
  await damage(directory);
  await expect(readArtifactSet(directory)).rejects.toThrow(message);
  await rm(directory, { recursive: true });
});

test("files of a terabyte beside the set are never read", async () => {
  const directory = artifacts("beside");
  await cp(artifacts("first"), directory, { recursive: true });
  for (const name of ["extra.bin", "manifest.json.bak"]) {
    await writeFile(path.join(directory, name), "");
    await truncate(path.join(directory, name), 2 ** 40);
  }
  const { files, manifestHash } = await readArtifactSet(directory);
  expect(manifestHash).toBe(first.manifestHash);
  expect([...files.keys()].sort()).toEqual([...first.files.keys()].sort());
});

test("a set whose adapters hold values that are not numbers is refused", async () => {
  await writeTinyModel(path.join(folder, "broken"), 9, { brokenCentroid: 1 });
  await expect(readArtifactSet(artifacts("broken"))).rejects.toThrow(/centroids.*NaN/);
});
