/** A model folder in miniature: a seeded random GPT-2 with tokenizer and artifacts. Useful for serving, not for language. */
import { createHash } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { centroidHash } from "../../gpu-backend/adapters/generated/generated.ts";
import { packExcerpts } from "../../gpu-backend/memory/centroid-memories.ts";
import {
  edgeTableFile,
  hyperNetworkFile,
  type Manifest,
  manifestFormat,
  memoriesFile,
  type SetFile,
  setFiles,
  tokenizerFile,
} from "../../shared/artifacts/manifest.ts";
import {
  readTensorFile,
  type TensorFile,
  tensorFrom,
  tensorOf,
  toFloat32,
  writeTensorFile,
} from "../../shared/artifacts/tensor-file.ts";
import { byteAlphabet } from "../../shared/tokenizer/pack.ts";
import { gpt2Config } from "./gpt2-config.ts";
import { writeGpt2 } from "./gpt2-file.ts";
import { type Gpt2Vocabulary, packGpt2 } from "./gpt2-tokenizer.ts";
import { seededRandom } from "./steps.ts";

/** V = 256 bytes + 43 merges + end of text. */
export const tinyConfig = gpt2Config({
  vocabularySize: 300,
  hiddenSize: 32,
  layers: 2,
  heads: 2,
  contextTokens: 1024,
  stopIds: [299],
});
export const tinyCentroids = ["c0", "c1", "c2", "c3"];

const P = 16; // dimensions of the prompt embedding
const bank = { rank: 6, biases: 2, hidden: 8 };

/**
 * Writes the folder `directory`. Centroids are `c0`, `c1`, …; the last one is off. `brokenPosition`: the output is NaN from this position
 * on. `brokenCentroid`: the centroid's vector is NaN. `texts`: token ids of each centroid's memory.
 */
export async function writeTinyModel(
  directory: string,
  seed = 7,
  options: { centroids?: number; brokenPosition?: number; brokenCentroid?: number; texts?: number[][] } = {},
): Promise<{ manifest: Manifest; manifestHash: string }> {
  const random = seededRandom(seed);
  const normal = gaussian(random);
  await mkdir(join(directory, "artifacts"), { recursive: true });

  const { vocabularySize: V, hiddenSize: D } = tinyConfig;
  const { centroids: K = tinyCentroids.length, brokenPosition, brokenCentroid, texts } = options;
  const vocabulary = tinyVocabulary();
  const model = await writeGpt2(directory, tinyConfig, vocabulary, (name, i) => {
    const value = (name === "wte.weight" ? 0.35 : 0.25) * normal();
    return name === "wpe.weight" && brokenPosition !== undefined && i === brokenPosition * D ? Number.NaN : value;
  });

  const floats = (shape: number[], spread: number) =>
    Float32Array.from({ length: elements(shape) }, () => spread * normal());
  const vectors = floats([K, P], 1);
  for (let k = 0; k < K; k++) normalise(vectors.subarray(k * P, (k + 1) * P));
  if (brokenCentroid !== undefined) vectors[brokenCentroid * P] = Number.NaN;
  const scales = Float32Array.from({ length: K }, (_, k) => (k === K - 1 ? 0 : 1 - k / K));
  const table = () => Int8Array.from({ length: V * P }, () => Math.round(random() * 254 - 127));
  const write = async (name: SetFile, tensors: TensorFile) => {
    const bytes = writeTensorFile(tensors);
    await writeFile(join(directory, "artifacts", name), bytes);
    const described = [...tensors].map(([tensor, { dtype, shape }]) => [tensor, { dtype, shape }]);
    return { sha256: sha256(bytes), bytes: bytes.length, tensors: Object.fromEntries(described) };
  };
  const network: TensorFile = new Map([
    ...bankTensors(floats),
    ["centroids", tensorFrom(vectors, [K, P])],
    ["scales", tensorFrom(scales, [K])],
    ["mean", tensorFrom(new Float32Array(D), [D])],
    ["transform", tensorFrom(floats([D, P], 1), [D, P])],
  ]);
  const edgeTable: TensorFile = new Map([
    ["table", tensorFrom(table(), [V, P])],
    ["table_scale", tensorFrom(new Float32Array(V).fill(0.01), [V])],
    ["centroids", tensorFrom(vectors, [K, P])],
  ]);
  const excerpts = texts?.map((ids, k) => [{ name: `public ${k}`, offset: 10, ids: Int32Array.from(ids) }]);
  const files: Manifest["files"] = {
    [hyperNetworkFile]: await write(hyperNetworkFile, network),
    [edgeTableFile]: await write(edgeTableFile, edgeTable),
    [tokenizerFile]: await write(tokenizerFile, packGpt2(vocabulary)),
    ...(excerpts && { [memoriesFile]: await write(memoriesFile, packExcerpts(excerpts)) }),
  };
  const manifest: Manifest = {
    format: manifestFormat,
    model: {
      name: "tiny",
      servedAs: "gpt2",
      weights: sha256(model),
      vocabularySize: V,
      hiddenSize: D,
      contextTokens: tinyConfig.contextTokens,
      stopIds: [...tinyConfig.stopIds],
    },
    embedding: { dimensions: P, prefixTokens: 64 },
    hyperNetwork: { hash: files[hyperNetworkFile].sha256, ...bank },
    centroids: Array.from(scales, (_, k) => ({
      id: `c${k}`,
      hash: centroidHash(vectors.subarray(k * P, (k + 1) * P), scales[k]),
      label: [`label ${k}`],
      size: 100 + k,
      position: [k, -k],
      scale: scales[k],
      gain: null,
      ...(texts && { memory: { tokens: texts[k].length, gain: null } }),
    })),
    static: { gain: null },
    files,
    training: { seed, steps: 0, corpora: [], basePerplexity: V, adaptedPerplexity: V },
  };
  const manifestJson = JSON.stringify(manifest, null, 2);
  await writeFile(join(directory, "artifacts", "manifest.json"), manifestJson);
  return { manifest, manifestHash: sha256(new TextEncoder().encode(manifestJson)) };
}

/** Writes another set of artifacts for the same weights, with gates twice as strong. `everyFile`: every file differs. */
export async function variantOf(
  model: string,
  directory: string,
  label: string,
  { everyFile = false } = {},
): Promise<string> {
  const from = join(model, "artifacts");
  await mkdir(directory, { recursive: true });
  const manifest: Manifest = JSON.parse(await readFile(join(from, "manifest.json"), "utf8"));
  for (const name of setFiles) {
    const file = readTensorFile(await readFile(join(from, name)));
    const tensors: TensorFile = new Map(file);
    if (name === hyperNetworkFile) {
      const doubled = toFloat32(tensorOf(file, "b2")).map((value) => 2 * value);
      tensors.set("b2", tensorFrom(doubled, tensorOf(file, "b2").shape));
    }
    // Readers ignore unknown tensors.
    if (everyFile) tensors.set("variant", tensorFrom(new Float32Array([1]), [1]));
    const bytes = writeTensorFile(tensors);
    await writeFile(join(directory, name), bytes);
    manifest.files[name] = { ...manifest.files[name], sha256: sha256(bytes), bytes: bytes.length };
  }
  manifest.hyperNetwork.hash = manifest.files[hyperNetworkFile].sha256;
  manifest.centroids[0].label = [label];
  await writeFile(join(directory, "manifest.json"), JSON.stringify(manifest, null, 2));
  return directory;
}

type Floats = (shape: number[], spread: number) => Float32Array;

function bankTensors(floats: Floats): TensorFile {
  const { rank, biases, hidden } = bank;
  const { hiddenSize: D } = tinyConfig;
  const Q = rank + biases;
  const a = floats([Q, D], 0.3);
  a.fill(0, rank * D);
  const a0 = Float32Array.from({ length: Q }, (_, q) => (q < rank ? 0 : 1));
  return new Map([
    ["w1", tensorFrom(floats([hidden, P], 0.3), [hidden, P])],
    ["b1", tensorFrom(floats([hidden], 0.1), [hidden])],
    ["w2", tensorFrom(floats([Q, hidden], 0.5), [Q, hidden])],
    ["b2", tensorFrom(floats([Q], 1), [Q])],
    ["a", tensorFrom(a, [Q, D])],
    ["a0", tensorFrom(a0, [Q])],
    ["b", tensorFrom(floats([Q, D], 0.5), [Q, D])],
    ["static_gates", tensorFrom(floats([Q], 0.5), [Q])],
  ]);
}

/** The bytes in order, 43 merges of common English, the end of text. */
function tinyVocabulary(): Gpt2Vocabulary {
  const space = byteAlphabet()[0x20];
  const pairs =
    "t h,h e,i n,a n,r e,o n,e r,a t,e n,o r,i s,e s,n d,i t,e d,th e,in g,an d,i on,o u,a r,a l,l e,s t,o f,t o,h a,l l,s e,v e,_ t,_ a,_ s,_ w,_ o,_ the,_ and,_ of,_ to,_ in,_ b,_ c,_ f"
      .replaceAll("_", space)
      .split(",");
  const pieces = [...byteAlphabet(), ...pairs.map((pair) => pair.replace(" ", "")), "<|endoftext|>"];
  return { pieces, merges: pairs, endOfTextId: pieces.length - 1 };
}

function gaussian(random: () => number): () => number {
  return () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

function normalise(vector: Float32Array): void {
  const length = Math.hypot(...vector);
  for (let i = 0; i < vector.length; i++) vector[i] /= length;
}

function elements(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
