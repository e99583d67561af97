import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { generatedAdapters } from "../../../../gpu-backend/adapters/generated/generated.ts";
import { hyperNetworkFile, type Manifest } from "../../../../shared/artifacts/manifest.ts";
import { readTensorFile, type TensorFile } from "../../../../shared/artifacts/tensor-file.ts";
import { temporaryFolder } from "../../../support/temporary-folder.ts";
import { writeTinyModel } from "../../../support/tiny-model.ts";

const folder = temporaryFolder();
let manifest: Manifest;
let file: TensorFile;
beforeAll(async () => {
  manifest = (await writeTinyModel(folder)).manifest;
  file = readTensorFile(await readFile(join(folder, "artifacts", hyperNetworkFile)));
});

test("the hash changes with the hyper-network, the centroid and the rank", () => {
  const { hyperNetwork } = manifest;
  const hashOf = (change: Partial<typeof hyperNetwork>) =>
    generatedAdapters({ ...manifest, hyperNetwork: { ...hyperNetwork, ...change } }, file).hashOf("c0");
  const hashes = [hashOf({}), hashOf({ hash: "0".repeat(64) }), hashOf({ rank: 7 }), hashOf({ biases: 9 })];
  expect(new Set(hashes).size).toBe(4);
});

test("a centroid that is not the manifest's is refused by name", () => {
  const [first, ...others] = manifest.centroids;
  const changed = { ...manifest, centroids: [{ ...first, hash: "0".repeat(64) }, ...others] };
  expect(() => generatedAdapters(changed, file)).toThrow(/centroid c0.*000/);
});

test("a vector that is not a number fails its centroid by name, and no other", async () => {
  const directory = temporaryFolder();
  const written = await writeTinyModel(directory, 7, { brokenCentroid: 0 });
  const tensors = readTensorFile(await readFile(join(directory, "artifacts", hyperNetworkFile)));
  const source = generatedAdapters(written.manifest, tensors);
  await expect(source.generate("c0")).rejects.toThrow(/Adapter c0 .* gate 0 is NaN/);
  expect((await source.generate("c1")).gates).not.toBe(null);
});
