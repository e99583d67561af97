import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { generatedAdapters } from "../../../../gpu-backend/adapters/generated/generated.ts";
import { gatesOf, readHyperNetwork } from "../../../../gpu-backend/adapters/generated/hyper-network.ts";
import { hyperNetworkFile, type Manifest } from "../../../../shared/artifacts/manifest.ts";
import {
  readTensorFile,
  type TensorFile,
  tensorFrom,
  tensorOf,
  toFloat32,
} from "../../../../shared/artifacts/tensor-file.ts";
import { temporaryFolder } from "../../../support/temporary-folder.ts";
import { tinyCentroids, writeTinyModel } from "../../../support/tiny-model.ts";

const folder = temporaryFolder();
let manifest: Manifest;
let file: TensorFile;
beforeAll(async () => {
  manifest = (await writeTinyModel(folder)).manifest;
  file = readTensorFile(await readFile(join(folder, "artifacts", hyperNetworkFile)));
});

test("each centroid gets its own gates under its own hash, over those of the static adapter, which scale 0 leaves alone", async () => {
  const source = generatedAdapters(manifest, file);
  const adapters = await Promise.all(tinyCentroids.map((id) => source.generate(id)));
  const vectors = toFloat32(tensorOf(file, "centroids"));
  adapters.forEach((adapter, k) => {
    const P = manifest.embedding.dimensions;
    const expected = gatesOf(readHyperNetwork(file), vectors.subarray(k * P, (k + 1) * P), manifest.centroids[k].scale);
    expect(adapter.gates).toEqual(expected);
    expect(adapter.hash).toBe(source.hashOf(tinyCentroids[k]));
    expect(adapter.bytes).toBeGreaterThan(adapter.gates!.byteLength);
  });
  expect(new Set(adapters.map(({ hash }) => hash)).size).toBe(tinyCentroids.length);
  const fixed = await source.generate("static");
  expect(adapters.at(-1)!.gates).toEqual(fixed.gates);
  expect(fixed.gates).toEqual(readHyperNetwork(file).staticGates);
  expect(fixed.hash).not.toBe(adapters.at(-1)!.hash);
  expect(source.hashOf("c99")).toBe(null);
  await expect(source.generate("c99")).rejects.toThrow(/c99.*c0, c1/);
});

test("a set without a static adapter has none of that name, and an adapter whose gates are zeros has none", async () => {
  const zeros = new Map([...file, ["static_gates", tensorFrom(new Float32Array(8), [8])]]);
  const { static: _, ...others } = manifest;
  const source = generatedAdapters(others, zeros);
  expect(source.hashOf("static")).toBeNull();
  expect((await source.generate(tinyCentroids.at(-1)!)).gates).toBeNull();
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
