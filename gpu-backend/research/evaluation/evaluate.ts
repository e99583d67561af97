/** Measures artifacts as they are shipped. */
import { readLock } from "../../training/corpus/lock.ts";
import type { CorpusSource } from "../../training/corpus/read-corpus.ts";
import type { Progress } from "../../training/progress.ts";
import { type Evaluation, rounded } from "./data.ts";
import { measureSources } from "./measure.ts";
import { openArtifacts } from "./open-artifacts.ts";
import { scoresOf } from "./scores.ts";
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
export async function evaluate(
  { model, artifacts, corpora, corpusFolder, texts, threads, cacheDirectory }: EvalOptions,
  progress: Progress,
  signal?: AbortSignal,
): Promise<Evaluation> {
  const { hash: lock } = await readLock();
  const opened = await openArtifacts(model, artifacts, { threads, format: "fp32" });
  try {
    const { manifest, manifestHash } = opened.served;
    const { tokenizer } = opened.base;
    const sources = corpora
      ? await heldOutTexts(corpora, tokenizer, texts)
      : await lockedTexts(corpusFolder, tokenizer, texts);
    const options = { tokenizer, cacheKey: manifestHash, cacheDirectory, progress, signal };
    const measured = await measureSources(sources, (...scored) => scoresOf(opened, ...scored), options);
    return rounded({ model: manifest.model.name, artifacts: manifestHash, lock, ...measured });
  } finally {
    await opened.release();
  }
}
