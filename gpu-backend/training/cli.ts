/** The training command line: `train` makes artifacts, `evaluate` measures the method. Decides nothing itself. */
import { availableParallelism } from "node:os";
import { Command, InvalidArgumentError } from "commander";
import { defaultCorpora } from "./corpus/default-corpora.ts";
import { parseSource } from "./corpus/read-corpus.ts";
import { createProgress } from "./progress.ts";
import { train } from "./train.ts";

const program = new Command("training").description("Trains adapters for a GPT-2, and measures them.");
const progress = createProgress(process.stderr, () => performance.now());

/** Ctrl-C: finish the step, save, end. A second one ends at once. */
const interruption = new AbortController();
process.once("SIGINT", () => interruption.abort(new Interrupted()));
process.once("SIGTERM", () => interruption.abort(new Interrupted()));
class Interrupted extends Error {}

const collect = (value: string, previous: string[] = []) => [...previous, value];
const count = (value: string) => {
  const number = Number(value);
  if (!Number.isInteger(number) || number < 1) throw new InvalidArgumentError("must be a whole number of 1 or more");
  return number;
};
const positive = (value: string) => {
  const number = Number(value);
  if (!(number > 0)) throw new InvalidArgumentError("must be a number above 0");
  return number;
};

program
  .command("train")
  .description("train adapters on text and write the artifacts that edge and backend serve")
  .option(
    "--model <folder>",
    "config.json, model.safetensors, vocab.json, merges.txt",
    "gpu-backend/models/chameleon-mini",
  )
  .option("--corpus <[name=]path>", "text file, JSONL, folder or quoted glob; repeatable", collect)
  .option("--licence <name=text>", "licence of a corpus, for the record; repeatable", collect, [])
  .option("--out <folder>", "where the artifacts go", ".cache/artifacts")
  .option("--seed <n>", "makes every draw", count, 1)
  .option("--centroids <n>", "clusters of text, K", count, 16)
  .option("--rank <n>", "low-rank directions of the bank, R", count, 64)
  .option("--biases <n>", "bias directions of the bank, M", count, 8)
  .option("--steps <n>", "optimiser steps", count, 400)
  .option("--learning-rate <x>", "peak", positive, 3e-3)
  .option("--windows <n>", "training windows of 256 tokens at most", count, 5000)
  .option("--held-out <n>", "windows at most for validation, and again for test", count, 1000)
  .option("--threads <n>", "threads", count, availableParallelism())
  .option("--keep-cache", "keep <out>/cache, for another run over the same text", false)
  .action(async (options) => {
    const corpora = options.corpus ? options.corpus.map(parseSource) : await defaultCorpora(progress);
    for (const entry of options.licence as string[]) {
      const [name, licence] = entry.split(/=(.*)/s);
      const source = corpora.find((candidate: { name: string }) => candidate.name === name);
      if (!source) throw new Error(`--licence ${entry}: no corpus is called ${name}`);
      source.licence = licence;
    }
    const manifest = await train(
      {
        modelDirectory: options.model,
        outDirectory: options.out,
        corpora,
        seed: options.seed,
        clusters: options.centroids,
        rank: options.rank,
        biases: options.biases,
        hidden: 32,
        dimensions: 64,
        steps: options.steps,
        learningRate: options.learningRate,
        trainWindows: options.windows,
        heldOutWindows: options.heldOut,
        threads: options.threads,
        keepCache: options.keepCache,
      },
      progress,
      interruption.signal,
    );
    for (const { id, label, size, scale, gain } of manifest.centroids) {
      const measured = gain
        ? `${gain.nats.toFixed(3)} [${gain.ci95.map((x) => x.toFixed(3)).join(", ")}]`
        : "not measured";
      console.log(
        `${id.padEnd(4)} scale ${scale.toFixed(2)}  gain ${measured.padEnd(22)}  ${size} windows  ${label.join(" ")}`,
      );
    }
    const { basePerplexity, adaptedPerplexity } = manifest.training;
    console.log(
      `held-out perplexity ${basePerplexity.toFixed(2)} → ${adaptedPerplexity.toFixed(2)}; artifacts in ${options.out}`,
    );
  });

try {
  await program.parseAsync();
} catch (error) {
  progress.end();
  if (error instanceof Interrupted) {
    console.error("interrupted; the same command goes on from here");
    process.exitCode = 130;
  } else {
    console.error(`error: ${error instanceof Error ? error.message : error}`);
    process.exitCode = 1;
  }
}
