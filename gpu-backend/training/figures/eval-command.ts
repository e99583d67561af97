/** `chameleon eval`: what artifacts gain, as they are shipped, on held-out documents and on new text. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { edgeTableFile, isAutoOff, manifestFile } from "../../../shared/artifacts/manifest.ts";
import { readTensorFile } from "../../../shared/artifacts/tensor-file.ts";
import { readEdgeTable } from "../../../shared/math/assignment.ts";
import { defaultCalibration } from "../../../shared/math/evidence.ts";
import type { WeightFormat } from "../../runtime/gpt2-graph.ts";
import { readLock } from "../corpus/lock.ts";
import type { CorpusSource } from "../corpus/read-corpus.ts";
import type { Progress } from "../progress.ts";
import { rounded, type Shipped } from "./data.ts";
import { EngineScorer } from "./engine-scorer.ts";
import type { Placement } from "./serving.ts";
import { measureShipped } from "./shipped.ts";
import { lockedTexts, trainedTexts } from "./sources.ts";

export interface EvalOptions {
  model: string;
  artifacts: string;
  /** The user's own, of which the test documents are measured; null: all corpora of the lock. */
  corpora: readonly CorpusSource[] | null;
  corpusFolder: string;
  texts: number;
  format: WeightFormat;
  threads: number;
  cacheDirectory: string;
}

/** Scores the bytes in `artifacts`, with the evidence that their manifest brings. */
export async function evaluateShipped(
  options: EvalOptions,
  progress: Progress,
  signal?: AbortSignal,
): Promise<Shipped> {
  const { model, artifacts, format, threads, cacheDirectory } = options;
  const { lock, hash } = await readLock();
  const scorer = await EngineScorer.open(model, { artifacts, threads, format });
  try {
    const { manifest, tokenizer } = scorer.artifacts;
    const placement: Placement = {
      ...readEdgeTable(readTensorFile(await readFile(join(artifacts, edgeTableFile)))),
      ids: manifest.centroids.map(({ id }) => id),
      isOff: manifest.centroids.map(isAutoOff),
      prefixTokens: manifest.embedding.prefixTokens,
      calibration: manifest.evidence ?? defaultCalibration,
    };
    const sourceOptions = { lock, manifest, tokenizer, texts: options.texts };
    const sources = options.corpora
      ? await trainedTexts(options.corpora, sourceOptions)
      : await lockedTexts(options.corpusFolder, sourceOptions);
    const doubtful = sources.filter(({ heldOut }) => !heldOut).map(({ name }) => name);
    if (doubtful.length > 0) {
      progress.note(`these artifacts may have been trained on test documents of ${doubtful.join(", ")}`);
    }
    const measured = await measureShipped(sources, { scorer, placement, format, cacheDirectory, progress, signal });
    const about = { model: manifest.model.name, artifacts: await hashOf(artifacts), lock: hash, format };
    return rounded({ ...about, ...measured });
  } finally {
    await scorer.release();
  }
}

async function hashOf(artifacts: string): Promise<string> {
  return createHash("sha256")
    .update(await readFile(join(artifacts, manifestFile)))
    .digest("hex");
}
