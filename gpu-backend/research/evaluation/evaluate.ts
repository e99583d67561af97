/** Measures artifacts as they are shipped. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { manifestFile, parseManifest } from "../../../shared/artifacts/manifest.ts";
import { readServedBank } from "../../training/bank/served-bank.ts";
import { readBase, type TrainingBase } from "../../training/base.ts";
import { readLock } from "../../training/corpus/lock.ts";
import type { CorpusSource } from "../../training/corpus/read-corpus.ts";
import type { Progress } from "../../training/progress.ts";
import { type Evaluation, rounded } from "./data.ts";
import { measureSources } from "./measure.ts";
import { placementOf } from "./plans.ts";
import { Scorer } from "./scorer.ts";
import { heldOutTexts, lockedTexts } from "./sources.ts";

export interface EvalOptions {
  /** Folder of the base. */
  model: string;
  artifacts: string;
  /** Corpora whose test documents are measured; null: all sources of the lock. */
  corpora: readonly CorpusSource[] | null;
  /** Where the corpora of the lock are. */
  corpusFolder: string;
  /** Texts of each source at most. */
  texts: number;
  threads: number;
  cacheDirectory: string;
}

/** Scores the files in `artifacts` by every method, with the evidence rule of their manifest. */
export async function evaluate(options: EvalOptions, progress: Progress, signal?: AbortSignal): Promise<Evaluation> {
  return evaluateOn(await readBase(options.model), options, progress, signal);
}

export async function evaluateOn(
  base: TrainingBase,
  { artifacts, corpora, corpusFolder, texts, threads, cacheDirectory }: Omit<EvalOptions, "model">,
  progress: Progress,
  signal?: AbortSignal,
): Promise<Evaluation> {
  const json = await readFile(join(artifacts, manifestFile), "utf8");
  const manifest = parseManifest(json);
  const { hash: lock } = await readLock();
  const { tokenizer, tokenEmbedding } = base;
  const sources = corpora
    ? await heldOutTexts(corpora, tokenizer, texts)
    : await lockedTexts(corpusFolder, tokenizer, texts);
  const served = await readServedBank(artifacts, manifest);
  const { adapters } = served;
  const placement = placementOf(served, manifest);
  const { vocabularySize, hiddenSize } = base.config;
  const head = { vocabularySize, hiddenSize, tokenEmbedding };
  const manifestHash = createHash("sha256").update(json).digest("hex");
  const trunk = await base.openTrunk(threads);
  const scorer = await Scorer.open(trunk, head, adapters.bank, placement, threads);
  try {
    const cacheKey = [manifestHash];
    const measured = await measureSources(sources, scorer, { tokenizer, cacheKey, cacheDirectory, progress, signal });
    return rounded({ model: manifest.model.name, artifacts: manifestHash, lock, ...measured });
  } finally {
    await scorer.release();
    await trunk.release();
  }
}
