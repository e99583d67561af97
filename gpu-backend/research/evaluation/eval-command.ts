/** `chameleon eval`: measures artifacts, as they are shipped, on held-out documents and on new text. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { edgeTableFile, isAutoOff } from "../../../shared/artifacts/manifest.ts";
import { readTensorFile } from "../../../shared/artifacts/tensor-file.ts";
import { readEdgeTable } from "../../../shared/math/assignment.ts";
import { defaultCalibration } from "../../../shared/math/evidence.ts";
import type { WeightFormat } from "../../runtime/products.ts";
import { readLock } from "../../training/corpus/lock.ts";
import type { CorpusSource } from "../../training/corpus/read-corpus.ts";
import type { Progress } from "../../training/progress.ts";
import { type Evaluation, rounded } from "./data.ts";
import { EngineScorer } from "./engine-scorer.ts";
import { addOwnAdapters } from "./own-adapters.ts";
import { controls, mainMethods, type Placement, staticHeadPlan } from "./serving.ts";
import { type Method, measureSources } from "./shipped.ts";
import { lockedTexts, trainedTexts } from "./sources.ts";

export interface EvalOptions {
  model: string;
  artifacts: string;
  /** Corpora whose test documents are measured; null: all corpora of the lock. */
  corpora: readonly CorpusSource[] | null;
  corpusFolder: string;
  /** Texts of each source at most. */
  texts: number;
  /** Also measure equal weights and random centroids. */
  controls: boolean;
  /** Also measure an own adapter of each source, made of so many example texts; 0: none. */
  ownExamples: number;
  /** Artifacts of one centroid, measured as a static head; null: none. */
  staticArtifacts: string | null;
  format: WeightFormat;
  threads: number;
  cacheDirectory: string;
}

/** Scores the files in `artifacts` by every method, with the evidence rule of their manifest. */
export async function evaluate(options: EvalOptions, progress: Progress, signal?: AbortSignal): Promise<Evaluation> {
  const { model, artifacts, format, threads, staticArtifacts, ownExamples, cacheDirectory } = options;
  const { lock, hash } = await readLock();
  const scorers = [await EngineScorer.open(model, { artifacts, threads, format })];
  try {
    const [scorer] = scorers;
    const { manifest, manifestHash, tokenizer } = scorer.artifacts;
    const calibration = manifest.evidence ?? defaultCalibration;
    const placement: Placement = {
      ...readEdgeTable(readTensorFile(await readFile(join(artifacts, edgeTableFile)))),
      ids: manifest.centroids.map(({ id }) => id),
      isOff: manifest.centroids.map(isAutoOff),
      prefixTokens: manifest.embedding.prefixTokens,
      calibration,
    };
    const methods: Record<string, Method> = {};
    const planners = options.controls ? { ...mainMethods, ...controls } : mainMethods;
    for (const [name, plan] of Object.entries(planners)) methods[name] = { scorer, plan };
    const cacheKey: unknown[] = [manifestHash, format];
    if (staticArtifacts !== null) {
      const head = await EngineScorer.open(model, { artifacts: staticArtifacts, threads, format, fullStrength: true });
      scorers.push(head);
      const [{ id }] = head.artifacts.manifest.centroids;
      methods["static head"] = { scorer: head, plan: ({ tokens }) => staticHeadPlan(tokens, id, calibration) };
      cacheKey.push(head.artifacts.manifestHash);
    }
    const sourceOptions = { lock, manifest, tokenizer, texts: options.texts, examples: ownExamples };
    const sources = options.corpora
      ? await trainedTexts(options.corpora, sourceOptions)
      : await lockedTexts(options.corpusFolder, sourceOptions);
    if (ownExamples > 0) {
      const ids = await addOwnAdapters(sources, scorer, placement, threads, progress);
      methods["own adapter"] = { scorer, plan: (_, __, source) => ({ adapterId: ids.get(source) ?? null }) };
      cacheKey.push(sources.map(({ examples }) => examples));
    }
    const doubtful = sources.filter(({ heldOut }) => !heldOut).map(({ name }) => name);
    if (doubtful.length > 0) {
      progress.note(`these artifacts may have been trained on test documents of ${doubtful.join(", ")}`);
    }
    const measured = await measureSources(sources, { methods, placement, cacheKey, cacheDirectory, progress, signal });
    return rounded({ model: manifest.model.name, artifacts: manifestHash, lock: hash, format, ...measured });
  } finally {
    for (const scorer of scorers) await scorer.release();
  }
}
