/** A random one-layer model folder and two small corpora of made-up words: enough to train on within a second. */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { TrainOptions } from "../../gpu-backend/training/train.ts";
import { tensorFrom, writeTensorFile } from "../../shared/artifacts/tensor-file.ts";
import { gpt2Config } from "./gpt2-config.ts";
import { gpt2Shapes } from "./gpt2-file.ts";
import { gpt2TokenizerJson } from "./gpt2-tokenizer.ts";
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
  };
}

/** The vocabulary is made of the first merges of the small base's. */
async function writeModel(folder: string, random: () => number): Promise<void> {
  await mkdir(folder, { recursive: true });
  const merges = vocabularySize - 257;
  const endOfTextId = vocabularySize - 1;
  const { model } = JSON.parse(await readFile(join(smallBase, "tokenizer.json"), "utf8")) as {
    model: { vocab: Record<string, number>; merges: string[] };
  };
  const kept = Object.keys(model.vocab).filter((piece) => model.vocab[piece] < endOfTextId);
  const pieces = [...kept.sort((a, b) => model.vocab[a] - model.vocab[b]), "<|endoftext|>"];
  const tokenizer = gpt2TokenizerJson({ pieces, merges: model.merges.slice(0, merges), endOfTextId });
  await writeFile(join(folder, "tokenizer.json"), JSON.stringify(tokenizer));
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
