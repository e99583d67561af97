/**
 * Everything that documents say of quality, from the artifacts' bytes and the corpus lock. Resumable: what is finished is kept
 * by a hash of all that it depends on. Needs no network once the corpora are there.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { manifestFile, parseManifest } from "../../../shared/artifacts/manifest.ts";
import { readServedBank, type ServedBank } from "../bank/served-bank.ts";
import type { BankSettings, TextSettings } from "../bank/settings.ts";
import { calibrate } from "../calibration/calibrate.ts";
import { familiesOf } from "../calibration/families.ts";
import { isKnown, lockedCorpora, lockedSources, readLock } from "../corpus/lock.ts";
import type { CorpusSource } from "../corpus/read-corpus.ts";
import { documentKey, scoredTokens, targetsOf } from "../corpus/windows.ts";
import { paperProtocol } from "../evaluation/paper-protocol.ts";
import { keptOrMade } from "../kept-results.ts";
import { type Prepared, place, prepare } from "../prepare.ts";
import type { Progress } from "../progress.ts";
import { compareMethods } from "./compare.ts";
import { type FamilyRow, type Figures, figuresSchema, rounded, type Shipped } from "./data.ts";
import { evaluateShipped } from "./eval-command.ts";
import { methodFigures, type ScoredWindow } from "./method-rows.ts";

export interface FiguresOptions extends BankSettings, TextSettings {
  model: string;
  artifacts: string;
  /** Where `npm run corpora` put the text. */
  corpusFolder: string;
  /** null: those of the lock. */
  corpora: readonly CorpusSource[] | null;
  cacheDirectory: string;
  seeds: readonly number[];
  /** Texts of each source that shipped bytes are scored on. */
  texts: number;
  /** Of each bank that is trained without a family, and texts of each corpus that its calibration sees. */
  familySteps: number;
  familyWindows: number;
  familyTexts: number;
  /** Of the paper's protocol. */
  paperLines: number;
  paperSteps: number;
  threads: number;
}

/** Of the paper's protocol: peak, of its LoRA as of its network. */
const paperLearningRate = 3e-3;
/** Validation windows that scales are chosen on in each bank that is trained without a family. */
const familyValidationWindows = 160;

/** Throws the signal's reason when aborted; the same options go on from there. */
export async function makeFigures(options: FiguresOptions, progress: Progress, signal?: AbortSignal): Promise<Figures> {
  const { lock, hash } = await readLock();
  const text = await readFile(join(options.artifacts, manifestFile), "utf8");
  const manifest = parseManifest(text);
  const manifestHash = createHash("sha256").update(text).digest("hex");
  const { cacheDirectory, threads } = options;
  if (!options.corpora) await lockedCorpora("training", options.corpusFolder);
  const shipped: Shipped = await evaluateShipped({ ...options, format: "fp32" }, progress, signal);
  const corpora = options.corpora ?? lockedSources(lock, "training", options.corpusFolder);
  const prepared = await prepare(
    { ...options, modelDirectory: options.model, corpora, windowSeed: options.seed },
    progress,
    signal,
  );
  try {
    const context = { threads, progress, signal };
    const compared = await compareMethods(prepared, { ...options, manifest, manifestHash }, context);
    const domains = prepared.corpora.map(({ name, sha256 }) => ({
      name,
      known: isKnown(lock, prepared.model.weightsHash, sha256),
    }));
    const paper = await paperFigures(prepared, options, progress);
    const figures = {
      ...{ format: 1, artifacts: manifestHash, lock: hash, settings: settingsOf(options), shipped },
      methods: methodFigures(compared, scoredWindows(prepared), domains),
      leaveOneOut: await leaveOneOut(
        prepared,
        await readServedBank(options.artifacts, manifest),
        options,
        progress,
        signal,
      ),
      paper,
    };
    return figuresSchema.parse(rounded(figures));
  } finally {
    await prepared.close();
    progress.note(`finished parts are in ${cacheDirectory}`);
  }
}

function scoredWindows({ sets, tokenizer }: Prepared): ScoredWindow[] {
  return sets.test.windows.map((window) => ({
    ...{ domain: window.corpus, document: documentKey(window), scored: scoredTokens(window) },
    bytes: targetsOf(window).reduce((sum, id) => sum + tokenizer.pieceOf(id).length, 0),
  }));
}

function paperFigures(prepared: Prepared, options: FiguresOptions, progress: Progress): Promise<Figures["paper"]> {
  const { cacheDirectory, clusters, paperLines: lines, paperSteps: steps, seed, threads } = options;
  const settings = { lines, steps, learningRate: paperLearningRate, seed };
  return keptOrMade(cacheDirectory, "paper", [prepared.key, clusters, settings], async () => ({
    ...(await paperProtocol(prepared, place(prepared, clusters, seed), { ...settings, threads }, progress)),
    steps,
  }));
}

/** The whole product without each family: bank, scales and calibration anew, and what it gains on that family. */
async function leaveOneOut(
  prepared: Prepared,
  served: ServedBank,
  options: FiguresOptions,
  progress: Progress,
  signal?: AbortSignal,
): Promise<FamilyRow[]> {
  const families = familiesOf(
    prepared.corpora.map(({ name }) => name),
    [],
  );
  const { seed, clusters, rank, biases, hidden, dimensions, learningRate, cacheDirectory, threads } = options;
  const { rows } = await calibrate(
    prepared,
    served,
    {
      ...{
        seed,
        clusters,
        rank,
        biases,
        hidden,
        dimensions,
        learningRate,
        headFormat: "fp32",
        cacheDirectory,
        threads,
      },
      ...{ steps: options.familySteps, trainWindows: options.familyWindows, families },
      ...{ validationWindows: familyValidationWindows, textsPerCorpus: options.familyTexts },
    },
    progress,
    signal,
  );
  const mark = ", left out";
  return rows.map(({ group, promptTokens, mixture, nearest }) => ({
    ...{ text: group.replace(mark, ""), leftOut: group.endsWith(mark), promptTokens },
    mixture: { mean: mixture.nats, ci95: mixture.ci95 },
    nearest: { mean: nearest.nats, ci95: nearest.ci95 },
  }));
}

/** What decides the figures besides artifacts and lock. */
function settingsOf(options: FiguresOptions): Figures["settings"] {
  const { clusters, rank, biases, hidden, dimensions, steps, trainWindows, validationWindows, testWindows } = options;
  const { texts, familySteps, familyWindows, familyTexts, paperLines, paperSteps } = options;
  return {
    ...{ clusters, rank, biases, hidden, dimensions, steps, trainWindows, validationWindows, testWindows },
    ...{ seeds: [...options.seeds], texts, familySteps, familyWindows, familyTexts, paperLines, paperSteps },
  };
}
