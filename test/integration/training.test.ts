import { createHash } from "node:crypto";
import { cp, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { centroidHash } from "../../gpu-backend/adapters/generated/generated.ts";
import { readServedBank } from "../../gpu-backend/training/bank/served-bank.ts";
import { readBase } from "../../gpu-backend/training/base.ts";
import { splitDocuments } from "../../gpu-backend/training/corpus/documents.ts";
import { readCorpus } from "../../gpu-backend/training/corpus/read-corpus.ts";
import type { Progress } from "../../gpu-backend/training/progress.ts";
import { renewMemories, train } from "../../gpu-backend/training/train.ts";
import { edgeTableFile, hyperNetworkFile, memoriesFile, parseManifest } from "../../shared/artifacts/manifest.ts";
import { readTensorFile, tensorOf, toFloat32 } from "../../shared/artifacts/tensor-file.ts";
import { readEdgeTable } from "../../shared/math/assignment.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { tinyTraining } from "../support/tiny-training.ts";

const seed = 3;
const folder = temporaryFolder();
const options = await tinyTraining(folder, seed);
const silent: Progress = { stage() {}, advance() {}, note() {}, end() {} };

/** Aborts once the stage `name` has advanced to `at`. */
function interruptedAt(name: string, at: number): { progress: Progress; signal: AbortSignal } {
  const controller = new AbortController();
  let stage = "";
  const progress: Progress = {
    ...silent,
    stage: (next) => {
      stage = next;
    },
    advance: (done) => {
      if (stage === name && done >= at) controller.abort(new Error("interrupted"));
    },
  };
  return { progress, signal: controller.signal };
}

async function bytesOf(directory: string): Promise<Record<string, string>> {
  const names = (await readdir(directory)).filter((name) => name !== "cache").sort();
  const hashed = async (name: string) => [name, sha256(await readFile(join(directory, name)))];
  return Object.fromEntries(await Promise.all(names.map(hashed)));
}
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

describe("a finished training", async () => {
  const out = join(folder, "whole");
  const manifest = await train({ ...options, outDirectory: out }, silent);

  test("made the held-out loss lower", () => {
    const { basePerplexity, adaptedPerplexity } = manifest.training!;
    expect(adaptedPerplexity).toBeLessThan(0.6 * basePerplexity); // each corpus has a tiny vocabulary
    const measured = manifest.centroids.filter(({ gain }) => gain);
    expect(measured.length).toBeGreaterThanOrEqual(2); // one for each corpus; a third has perhaps no held-out text
    for (const { gain } of measured) expect(gain!.ci95[0]).toBeGreaterThan(0);
    // One static adapter cannot learn the words of both corpora, so a centroid adds to it: its scale is above 0.
    expect(measured.some(({ scale }) => scale > 0)).toBe(true);
  });

  test("left a manifest that describes the files beside it, and no cache", async () => {
    expect(parseManifest(await readFile(join(out, "manifest.json"), "utf8"))).toEqual(manifest);
    for (const [name, record] of Object.entries(manifest.files)) {
      const bytes = await readFile(join(out, name));
      expect(sha256(bytes)).toBe(record.sha256);
      expect(bytes.length).toBe(record.bytes);
      const described = [...readTensorFile(bytes)].map(([key, { dtype, shape }]) => [key, { dtype, shape }]);
      expect(Object.fromEntries(described)).toEqual(record.tensors);
    }
    expect(manifest.hyperNetwork.hash).toBe(manifest.files[hyperNetworkFile].sha256);
    expect(manifest.training?.corpora.map(({ name, documents }) => [name, documents])).toEqual([
      ["sea", 30],
      ["tables", 30],
    ]);
    expect(await readdir(out)).not.toContain("cache");
  });

  test("gives edge and backend the same centroids, and hashes that follow from them", async () => {
    const { centroids } = readEdgeTable(readTensorFile(await readFile(join(out, edgeTableFile))));
    const network = readTensorFile(await readFile(join(out, hyperNetworkFile)));
    expect(toFloat32(tensorOf(network, "centroids"))).toEqual(centroids.vectors);
    const scales = toFloat32(tensorOf(network, "scales"));
    for (const [k, { id, hash, scale }] of manifest.centroids.entries()) {
      expect(id).toBe(`c${k}`);
      expect(scale).toBe(scales[k]);
      const vector = centroids.vectors.subarray(k * centroids.dimensions, (k + 1) * centroids.dimensions);
      expect(hash).toBe(centroidHash(vector, scale));
    }
  });

  test("gives centroids memories of training text, which can be made again without training", async () => {
    const { memories } = await readServedBank(out);
    expect(memories.flat().length).toBeGreaterThan(0);
    expect(memories.map((own) => own.length > 0)).toEqual(manifest.centroids.map(({ memory }) => Boolean(memory)));
    for (const { memory } of manifest.centroids) expect(memory?.gain?.nats ?? 1).toBeGreaterThan(0);
    const { tokenizer } = await readBase(options.modelDirectory);
    for (const corpus of await Promise.all(options.corpora.map(readCorpus))) {
      const splits = splitDocuments(corpus.name, corpus.documents);
      for (const { name, offset, ids } of memories.flat().filter((one) => one.name.startsWith(`${corpus.name} `))) {
        const document = Number(name.slice(corpus.name.length)) - 1;
        expect(splits[document]).toBe("train");
        expect(Buffer.from(corpus.documents[document].text).toString("utf8", offset)).toMatch(
          new RegExp(`^${RegExp.escape(tokenizer.decode([...ids]))}`),
        );
      }
    }
    const modelDirectory = join(folder, "copy");
    await cp(options.modelDirectory, modelDirectory, { recursive: true });
    await cp(out, join(modelDirectory, "artifacts"), { recursive: true });
    const renewed = { ...options, modelDirectory, outDirectory: join(folder, "renewed") };
    const { files, centroids } = await renewMemories({ ...renewed, memoryTokens: 0 }, silent);
    expect([files[memoriesFile], ...centroids.map(({ memory }) => memory)].filter(Boolean)).toEqual([]);
    await renewMemories(renewed, silent);
    expect(await bytesOf(renewed.outDirectory)).toEqual(await bytesOf(out));
  });

  test("is what an interrupted and resumed one makes, byte for byte", async () => {
    const outDirectory = join(folder, "resumed");
    const notes: string[] = [];
    const note = (line: string) => notes.push(line);
    for (const [stage, at] of [
      ["hidden states", 2],
      ["static 0.003", 7],
      ["hyper-network", 41],
      ["memories", 1],
    ] as const) {
      const { progress, signal } = interruptedAt(stage, at);
      await expect(train({ ...options, outDirectory }, { ...progress, note }, signal)).rejects.toThrow("interrupted");
    }
    await train({ ...options, outDirectory }, silent);
    expect(notes).toContain("hyper-network: continuing from step 41");
    expect(await bytesOf(outDirectory)).toEqual(await bytesOf(out));
  });
});

test("a checkpoint of other settings is not continued", async () => {
  const outDirectory = join(folder, "changed");
  const { progress, signal } = interruptedAt("hyper-network", 7);
  await expect(train({ ...options, outDirectory }, progress, signal)).rejects.toThrow("interrupted");
  const notes: string[] = [];
  const changed = { ...options, outDirectory, learningRate: 0.01 };
  await train(changed, { ...silent, note: (line) => notes.push(line) });
  expect(notes.filter((line) => line.startsWith("hyper-network: continuing"))).toEqual([]);
});

test("of little text few centroids are made, and none is served unmeasured", async () => {
  const small = join(folder, "small");
  const { corpora, ...rest } = await tinyTraining(small, seed + 2);
  const outDirectory = join(small, "out");
  const manifest = await train({ ...rest, corpora: corpora.slice(0, 1), clusters: null, outDirectory }, silent);
  // Of 30 documents, 3 are held out: enough to measure one centroid.
  expect(manifest.centroids).toHaveLength(1);
  const forced = await train(
    { ...rest, corpora: corpora.slice(0, 1), clusters: 8, outDirectory: join(small, "forced") },
    silent,
  );
  const unmeasured = forced.centroids.filter(({ gain }) => gain === null);
  expect(unmeasured.length).toBeGreaterThan(0);
  expect(unmeasured.filter(({ scale }) => scale > 0)).toEqual([]);
  for (const { gain, scale } of forced.centroids)
    if (gain && scale > 0) expect(gain.ci95[1]).toBeGreaterThan(gain.ci95[0]);
});
