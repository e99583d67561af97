/** A random one-layer model and two small corpora of made-up words, to train on within a second. */
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { TrainOptions } from "../../gpu-backend/training/train.ts";
import { writeGpt2 } from "./gpt2-file.ts";
import { smallBase } from "./small-base.ts";
import { seededRandom } from "./steps.ts";

const vocabularySize = 400;

/** Writes `<folder>/model` and `<folder>/<name>.jsonl`. Returns options that train on them. */
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
    ...{ modelDirectory: join(folder, "model"), corpora, seed, clusters: 3, threads: 1 },
    ...{ staticRank: 2, rank: 8, biases: 2, hidden: 8, dimensions: 8 },
    ...{ steps: 60, learningRate: 0.02, weightDecay: 0 },
    ...{ trainWindows: 100, validationWindows: 40, testWindows: 40, memoryTokens: 2000 },
  };
}

/** The vocabulary is the small base's first merges. */
async function writeModel(folder: string, random: () => number): Promise<void> {
  await mkdir(folder, { recursive: true });
  const merges = vocabularySize - 257;
  const endOfTextId = vocabularySize - 1;
  const { model } = JSON.parse(await readFile(join(smallBase, "tokenizer.json"), "utf8")) as {
    model: { vocab: Record<string, number>; merges: string[] };
  };
  const kept = Object.keys(model.vocab).filter((piece) => model.vocab[piece] < endOfTextId);
  const pieces = [...kept.sort((a, b) => model.vocab[a] - model.vocab[b]), "<|endoftext|>"];
  const vocabulary = { pieces, merges: model.merges.slice(0, merges), endOfTextId };
  const sizes = { vocabularySize, hiddenSize: 16, layers: 1, heads: 2, contextTokens: 256, stopIds: [endOfTextId] };
  await writeGpt2(folder, sizes, vocabulary, () => 0.3 * (random() - 0.5));
}

function word(random: () => number): string {
  return Array.from({ length: 3 + Math.floor(random() * 5) }, () =>
    String.fromCharCode(97 + Math.floor(random() * 26)),
  ).join("");
}
