import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { generatedAdapters, servedBank, servedPool } from "../../../../gpu-backend/adapters/generated.ts";
import { gatesOf, readHyperNetwork } from "../../../../gpu-backend/adapters/hyper-network.ts";
import { hyperNetworkFile, type Manifest } from "../../../../shared/artifacts/manifest.ts";
import {
  readTensorFile,
  type TensorFile,
  tensorFrom,
  tensorOf,
  toFloat32,
} from "../../../../shared/artifacts/tensor-file.ts";
import { tinyCentroids, writeTinyModel } from "../../../support/tiny-model.ts";

const pause = async () => {};
let folder: string;
let manifest: Manifest;
let file: TensorFile;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "generated-adapters-"));
  manifest = (await writeTinyModel(folder)).manifest;
  file = readTensorFile(await readFile(join(folder, "artifacts", hyperNetworkFile)));
});
afterAll(() => rm(folder, { recursive: true }));

test("each centroid gets its own gates under its own hash; scale 0 gets none", async () => {
  const source = generatedAdapters(manifest, file, pause);
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
  expect(adapters.at(-1)!.gates!.every((gate) => gate === 0)).toBe(true);
  expect(source.hashOf("c99")).toBe(null);
  await expect(source.generate("c99")).rejects.toThrow(/c99.*c0, c1/);
});

test("the hash changes with the hyper-network, the centroid and the rank", () => {
  const { hyperNetwork } = manifest;
  if (hyperNetwork.kind !== "gated-bank") throw new Error(`kind ${hyperNetwork.kind}`);
  const hashOf = (change: Partial<typeof hyperNetwork>) =>
    generatedAdapters({ ...manifest, hyperNetwork: { ...hyperNetwork, ...change } }, file, pause).hashOf("c0");
  const hashes = [hashOf({}), hashOf({ hash: "0".repeat(64) }), hashOf({ rank: 7 }), hashOf({ biases: 9 })];
  expect(new Set(hashes).size).toBe(4);
});

test("a centroid that is not the manifest's is refused by name", () => {
  const [first, ...others] = manifest.centroids;
  const changed = { ...manifest, centroids: [{ ...first, hash: "0".repeat(64) }, ...others] };
  expect(() => generatedAdapters(changed, file, pause)).toThrow(/centroid c0.*000/);
});

describe("the full kind", () => {
  async function fullSource(pauseOf = pause, options: Parameters<typeof writeTinyModel>[2] = {}) {
    const directory = await mkdtemp(join(tmpdir(), "full-adapters-"));
    try {
      const written = await writeTinyModel(directory, 7, { kind: "full", ...options });
      const tensors = readTensorFile(await readFile(join(directory, "artifacts", hyperNetworkFile)));
      return { manifest: written.manifest, tensors, source: generatedAdapters(written.manifest, tensors, pauseOf) };
    } finally {
      await rm(directory, { recursive: true });
    }
  }

  test("has directions and no gates, the same bits and hash each time; none where the scale is 0", async () => {
    const [one, other] = [await fullSource(), await fullSource()];
    for (const id of tinyCentroids) {
      const [first, again, elsewhere] = await Promise.all([
        one.source.generate(id),
        one.source.generate(id),
        other.source.generate(id),
      ]);
      expect(again).toEqual(first);
      expect(elsewhere).toEqual(first);
      expect(first.hash).toBe(one.source.hashOf(id));
      expect(first.gates).toBe(null);
      if (first.scale === 0) expect(first.directions).toBe(null);
      else expect(first.bytes).toBeGreaterThan(4 * (first.directions!.a.length + first.directions!.b.length));
    }
    expect(new Set(tinyCentroids.map((id) => one.source.hashOf(id))).size).toBe(tinyCentroids.length);
    expect(one.source.hashOf("c0")).not.toBe(generatedAdapters(manifest, file, pause).hashOf("c0"));
  });

  test("needs a pool of its rank, rounded up to a power of two, and no bank", async () => {
    const { manifest: full, tensors } = await fullSource();
    expect(servedPool(full, 8)).toEqual({ slots: 8, rank: 4 });
    expect(() => servedPool(full, 0)).toThrow(/ADAPTER_SLOTS is 0.*"full"/);
    expect(servedPool(manifest, 0)).toBe(null);
    expect(servedPool(manifest, 8), "for adapters made of examples").toEqual({ slots: 8, rank: 1 });
    expect(servedBank(full, tensors).gates).toBe(0);
    expect(servedBank(manifest, file).gates).toBe(8);
  });

  test("pauses while it makes a large one, makes one at a time, and gets over a failure", async () => {
    const { manifest: small, tensors } = await fullSource();
    const V = 50_000;
    const width = 3 * (small.model.hiddenSize + V);
    tensors.set("w3", tensorFrom(new Float32Array(width * 8).fill(0.01), [width, 8]));
    tensors.set("b3", tensorFrom(new Float32Array(width), [width]));
    let [pauses, open, mostOpen] = [0, 0, 0];
    let failure: Error | null = null;
    const source = generatedAdapters({ ...small, model: { ...small.model, vocabularySize: V } }, tensors, async () => {
      if (failure) throw failure;
      pauses++;
      mostOpen = Math.max(mostOpen, ++open);
      await setImmediate();
      open--;
    });
    await Promise.all(["c0", "c1", "c2"].map((id) => source.generate(id)));
    expect(pauses).toBe(3);
    expect(mostOpen).toBe(1);
    failure = new Error("interrupted");
    await expect(source.generate("c0")).rejects.toThrow("interrupted");
    failure = null;
    expect((await source.generate("c0")).directions).not.toBe(null);
  });

  test("a vector that is not a number fails its centroid by name, and no other", async () => {
    const { source } = await fullSource(pause, { brokenCentroid: 1 });
    await expect(source.generate("c1")).rejects.toThrow(/Centroid c1 has no usable adapter: value of A 0 is NaN/);
    expect((await source.generate("c2")).directions).not.toBe(null);
    const gated = await fullSource(pause, { kind: "gated-bank", brokenCentroid: 0 });
    await expect(gated.source.generate("c0")).rejects.toThrow(/Centroid c0 .* gate 0 is NaN/);
    expect((await gated.source.generate("c1")).gates).not.toBe(null);
  });
});
