import { readFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { Option } from "commander";
import { manifestFile, parseManifest } from "../../shared/artifacts/manifest.ts";
import { collected, count, createCommand, runCommand } from "../command-line.ts";
import { embeddedModel } from "../models/embedded.ts";
import { embeddedSettings } from "./bank/settings.ts";
import { centroidLines } from "./centroid-lines.ts";
import { fetchDefaultCorpora } from "./corpus/fetch-corpora.ts";
import { defaultCorpusFolder, lockedSources, readLock, shownCorpusFolder } from "./corpus/lock.ts";
import { type CorpusSource, parseSource } from "./corpus/read-corpus.ts";
import { commandProgress, interruptionSignal } from "./progress.ts";
import { maxCentroids, renewMemories, type TrainOptions, train } from "./train.ts";

const isCheckout = import.meta.filename.endsWith(".ts");

const progress = commandProgress();
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
  .option("--corpus <[name=]path>", "text file, JSONL, folder or quoted glob; repeatable", collected)
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
  .option("--windows <n>", "training windows of 256 tokens at most", count, embeddedSettings.trainWindows)
  .option(
    "--memory-tokens <n>",
    "training text in a centroid's memory; 0: no memories",
    (text) => (text === "0" ? 0 : count(text)),
    embeddedSettings.memoryTokens,
  )
  .option("--memories-only", "trains nothing: gives the set in <model>/artifacts new memories", false)
  .option("--threads <n>", "threads", count, availableParallelism())
  .option("--out <folder>", "where the artifacts go", ".cache/artifacts")
  .option("--seed <n>", "decides every draw", count, 1)
  .action(async (flags: TrainFlags) => {
    const { threads, out: outDirectory, model: modelDirectory, seed, rank, steps, windows, memoryTokens } = flags;
    const own = { seed, clusters: flags.centroids ?? null, rank, steps, trainWindows: windows };
    const options: TrainOptions = {
      ...{ ...embeddedSettings, ...(!flags.embedded && own) },
      ...{ modelDirectory, corpora: await corporaOf(flags), outDirectory, threads, memoryTokens },
      evidence: flags.embedded ? await embeddedEvidence() : undefined,
    };
    const { centroids, training } = await (flags.memoriesOnly ? renewMemories : train)(options, progress, interruption);
    for (const line of centroidLines(centroids)) console.log(line);
    const { basePerplexity, adaptedPerplexity } = training!;
    console.log(`held-out perplexity ${basePerplexity.toFixed(2)} → ${adaptedPerplexity.toFixed(2)}, in ${flags.out}`);
  });

async function embeddedEvidence() {
  return parseManifest(await readFile(join(embeddedModel, "artifacts", manifestFile), "utf8")).evidence;
}

async function corporaOf({ embedded, corpora: folder, corpus }: TrainFlags): Promise<CorpusSource[]> {
  if (embedded) {
    const { lock } = await readLock();
    const trained = lock.corpora.filter(({ role }) => role === "training");
    return lockedSources(trained, folder);
  }
  if (corpus) return corpus.map(parseSource);
  if (!isCheckout) throw new Error("name the text with --corpus; only a checkout has corpora of its own");
  return fetchDefaultCorpora(progress);
}

interface TrainFlags {
  model: string;
  corpus?: string[];
  embedded: boolean;
  corpora: string;
  centroids?: number;
  rank: number;
  steps: number;
  windows: number;
  memoryTokens: number;
  memoriesOnly: boolean;
  threads: number;
  out: string;
  seed: number;
}

await runCommand(command);
