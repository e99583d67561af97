/** `chameleon train`. */
import { readFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { InvalidArgumentError, Option } from "commander";
import { manifestFile, parseManifest } from "../../shared/artifacts/manifest.ts";
import { collected as collect, count, createCommand, positive, runCommand } from "../command-line.ts";
import { embeddedModel } from "../models/embedded.ts";
import { type BankSettings, embeddedSettings, type TextSettings } from "./bank/settings.ts";
import { centroidLines } from "./centroid-lines.ts";
import { fetchDefaultCorpora } from "./corpus/fetch-corpora.ts";
import { defaultCorpusFolder, lockedCorpora, lockedSources, readLock, shownCorpusFolder } from "./corpus/lock.ts";
import { type CorpusSource, parseSource } from "./corpus/read-corpus.ts";
import { commandProgress, interruptionSignal } from "./progress.ts";
import { maxCentroids, type TrainOptions, train } from "./train.ts";

const isCheckout = import.meta.filename.endsWith(".ts");

const progress = commandProgress(() => performance.now());
const interruption = interruptionSignal(() => performance.now());

const command = createCommand("train", "Train adapters on text and write the artifacts that edge and backend serve", [
  "chameleon train --corpus ./my-texts --out ./my-artifacts",
])
  .addOption(
    new Option("--model <folder>", "config.json, model.safetensors, tokenizer.json").default(
      embeddedModel,
      "the embedded model",
    ),
  )
  .option("--corpus <[name=]path>", "text file, JSONL, folder or quoted glob; repeatable", collect)
  .addOption(
    new Option("--embedded", "by the embedded artifacts' settings, on the locked corpora (chameleon corpora first)")
      .default(false)
      .conflicts("corpus"),
  )
  .addOption(
    new Option("--corpora <folder>", "where chameleon corpora put the text, for --embedded").default(
      defaultCorpusFolder,
      shownCorpusFolder,
    ),
  )
  .option("--centroids <n>", `clusters of text, K (default: ${maxCentroids}, and fewer of little text)`, count)
  .option("--rank <n>", "low-rank directions of the centroids' adapters, R", count, embeddedSettings.rank)
  .option("--steps <n>", "optimiser steps of each part", count, embeddedSettings.steps)
  .option("--learning-rate <x>", "peak, of the centroids' adapters", positive, embeddedSettings.learningRate)
  .option("--windows <n>", "training windows of 256 tokens at most", count, embeddedSettings.trainWindows)
  .option("--threads <n>", "threads", count, availableParallelism())
  .option("--licence <name=text>", "licence of a corpus, for the record; repeatable", collect, [])
  .option("--out <folder>", "where the artifacts go", ".cache/artifacts")
  .option("--seed <n>", "decides every draw", count, 1)
  .option("--held-out <n>", "windows at most for validation, and again for test", count, embeddedSettings.testWindows)
  .option("--json", "print what was trained as JSON")
  .option("--keep-cache", "keep <out>/cache, for another run over the same text", false)
  .action(async (flags: TrainFlags) => {
    const corpora = await corporaOf(flags);
    for (const entry of flags.licence) nameLicence(corpora, entry);
    const { keepCache, threads, out: outDirectory, model: modelDirectory } = flags;
    const settings = flags.embedded ? embeddedSettings : settingsOf(flags);
    const options: TrainOptions = {
      ...settings,
      ...{ modelDirectory, corpora, outDirectory, keepCache, threads },
      evidence: flags.embedded ? await embeddedEvidence() : undefined,
    };
    const manifest = await train(options, progress, interruption);
    const { centroids, training } = manifest;
    if (flags.json) {
      console.log(JSON.stringify({ artifacts: flags.out, centroids, training }));
      return;
    }
    for (const line of centroidLines(centroids)) console.log(line);
    const { basePerplexity, adaptedPerplexity } = training!;
    console.log(`held-out perplexity ${basePerplexity.toFixed(2)} → ${adaptedPerplexity.toFixed(2)}, in ${flags.out}`);
  });

/** The evidence rule of the embedded artifacts. */
async function embeddedEvidence() {
  return parseManifest(await readFile(join(embeddedModel, "artifacts", manifestFile), "utf8")).evidence;
}

async function corporaOf({ embedded, corpora: folder, corpus }: TrainFlags): Promise<CorpusSource[]> {
  if (embedded) {
    await lockedCorpora("training", folder);
    return lockedSources((await readLock()).lock, "training", folder);
  }
  if (corpus) return corpus.map(parseSource);
  if (!isCheckout) throw new Error("name the text with --corpus; only a checkout has corpora of its own");
  return fetchDefaultCorpora(progress);
}

function settingsOf(flags: TrainFlags): Omit<BankSettings, "clusters"> & TextSettings & { clusters: number | null } {
  const { seed, rank, steps, learningRate } = flags;
  return {
    ...embeddedSettings,
    ...{ seed, clusters: flags.centroids ?? null, rank, steps, learningRate },
    ...{ trainWindows: flags.windows, validationWindows: flags.heldOut, testWindows: flags.heldOut },
  };
}

interface TrainFlags {
  model: string;
  corpus?: string[];
  embedded: boolean;
  corpora: string;
  centroids?: number;
  rank: number;
  steps: number;
  learningRate: number;
  windows: number;
  threads: number;
  licence: string[];
  out: string;
  seed: number;
  heldOut: number;
  keepCache: boolean;
  json?: boolean;
}

function nameLicence(corpora: readonly CorpusSource[], entry: string): void {
  const [name, licence] = entry.split(/=(.*)/s);
  const source = corpora.find((candidate) => candidate.name === name);
  if (!source) throw new InvalidArgumentError(`--licence ${entry}: no corpus is called ${name}`);
  source.licence = licence ?? null;
}

await runCommand(command);
