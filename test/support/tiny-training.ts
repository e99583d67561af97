/** A random one-layer model folder and two small corpora of made-up words: enough to train on within a second. */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gpt2Config } from "../../gpu-backend/runtime/model-config.ts";
import type { TrainOptions } from "../../gpu-backend/training/train.ts";
import { tensorFrom, writeTensorFile } from "../../shared/artifacts/tensor-file.ts";
import { gpt2Shapes } from "./gpt2-file.ts";
import { smallBase } from "./small-base.ts";
import { seededRandom } from "./steps.ts";

const vocabularySize = 400;
const shape = { n_embd: 16, n_layer: 1, n_head: 2, n_positions: 256 };

/** Writes `<folder>/model` and `<folder>/<name>.jsonl` for each corpus; returns options that train on them. */
export async function tinyTraining(
  folder: string,
  seed: number,
  names: readonly string[] = ["sea", "tables"],
): Promise<Omit<TrainOptions, "outDirectory" | "clusters"> & { clusters: number }> {
  const random = seededRandom(seed);
  await writeModel(join(folder, "model"), random);
  const corpora = [];
  for (const name of names) {
    const words = Array.from({ length: 12 }, () => word(random));
    const documents = Array.from({ length: 30 }, () =>
      JSON.stringify({ text: Array.from({ length: 150 }, () => words[Math.floor(random() ** 2 * 12)]).join(" ") }),
    );
    const path = join(folder, `${name}.jsonl`);
    await writeFile(path, documents.join("\n"));
    corpora.push({ name, path, licence: "made up" });
  }
  return {
    modelDirectory: join(folder, "model"),
    corpora,
    seed,
    clusters: 3,
    staticRank: 2,
    rank: 8,
    biases: 2,
    hidden: 8,
    dimensions: 8,
    steps: 60,
    learningRate: 0.02,
    weightDecay: 0,
    trainWindows: 100,
    validationWindows: 40,
    testWindows: 40,
    threads: 1,
    keepCache: false,
  };
}

/** The first merges of the small base's vocabulary make the tiny one. */
async function writeModel(folder: string, random: () => number): Promise<void> {
  await mkdir(folder, { recursive: true });
  const merges = vocabularySize - 257;
  const endOfTextId = vocabularySize - 1;
  const vocabulary = JSON.parse(await readFile(join(smallBase, "vocab.json"), "utf8")) as Record<string, number>;
  const kept = Object.entries(vocabulary).filter(([, id]) => id < endOfTextId);
  const mergeLines = (await readFile(join(smallBase, "merges.txt"), "utf8")).split("\n");
  const header = mergeLines[0].startsWith("#") ? 1 : 0;
  await writeFile(join(folder, "merges.txt"), `${mergeLines.slice(0, header + merges).join("\n")}\n`);
  await writeFile(
    join(folder, "vocab.json"),
    JSON.stringify(Object.fromEntries([...kept, ["<|endoftext|>", endOfTextId]])),
  );
  const config = { model_type: "gpt2", vocab_size: vocabularySize, eos_token_id: endOfTextId, ...shape };
  await writeFile(join(folder, "config.json"), JSON.stringify(config));
  const sizes = {
    vocabularySize,
    hiddenSize: shape.n_embd,
    layers: shape.n_layer,
    heads: shape.n_head,
    contextTokens: shape.n_positions,
    stopIds: [endOfTextId],
  };
  const shapes = gpt2Shapes(gpt2Config(sizes));
  const weights = new Map(
    [...shapes].map(([name, dimensions]) => {
      const length = dimensions.reduce((a, b) => a * b, 1);
      const values = Float32Array.from({ length }, () => (isNorm(name) ? 1 : 0.3 * (random() - 0.5)));
      return [name, tensorFrom(values, dimensions)];
    }),
  );
  await writeFile(join(folder, "model.safetensors"), writeTensorFile(weights));
}

function isNorm(name: string): boolean {
  return /ln_.\.weight$/.test(name);
}

function word(random: () => number): string {
  return Array.from({ length: 3 + Math.floor(random() * 5) }, () =>
    String.fromCharCode(97 + Math.floor(random() * 26)),
  ).join("");
}
