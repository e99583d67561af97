/** Prepares corpora for training: token ids, windows by split, the prompt space, hidden states, and clusters. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { TensorFile } from "../../shared/artifacts/tensor-file.ts";
import { packGpt2Tokenizer } from "../../shared/tokenizer/pack.ts";
import { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import { type ModelFolder, readModelFolder } from "../models/safetensors/model-folder.ts";
import { floatsOf, weightOf } from "../runtime/model-weights.ts";
import { createTrunkRunner } from "../runtime/trunk-runner.ts";
import type { PlacedSet, WindowSet } from "./bank/batches.ts";
import type { TextSettings } from "./bank/settings.ts";
import type { HeadWeights } from "./bank/training-graph.ts";
import { readChatTemplate } from "./chat-template-file.ts";
import { embedWindows, type Placement, placeText } from "./clustering/placement.ts";
import { fitPromptSpace, foldRows, type PromptSpace } from "./clustering/prompt-space.ts";
import { type Split, splitDocuments, splits } from "./corpus/documents.ts";
import { type Corpus, type CorpusSource, readCorpus } from "./corpus/read-corpus.ts";
import { documentKey, prefixOf, sampleWindows, type Window, windowsOf } from "./corpus/windows.ts";
import { HiddenStates, hiddenStatesKey } from "./hidden-states.ts";
import type { Progress } from "./progress.ts";
import { Random, streams } from "./random.ts";

export interface PrepareOptions extends TextSettings {
  modelDirectory: string;
  corpora: readonly CorpusSource[];
  cacheDirectory: string;
  /** Seed of the draw of windows, where there are more than wanted. */
  windowSeed: number;
  dimensions: number; // P
  threads: number;
}

export interface PreparedCorpus extends Omit<Corpus, "documents"> {
  documents: number;
  tokens: number;
}

export interface Prepared {
  model: ModelFolder;
  head: HeadWeights;
  tokenizer: Tokenizer;
  /** Content of tokenizer.safetensors. */
  tokenizerFile: TensorFile;
  /** The model's own, if it has one. */
  chatTemplate: string | undefined;
  corpora: PreparedCorpus[];
  space: PromptSpace;
  sets: Record<Split, WindowSet>;
  /** Names model, text, split and window counts: equal keys mean equal preparations. */
  key: string;
  close(): Promise<void>;
}

export async function prepare(options: PrepareOptions, progress: Progress, signal?: AbortSignal): Promise<Prepared> {
  const model = await readModelFolder(options.modelDirectory);
  const { hiddenSize: D, vocabularySize: V } = model.config;
  const tokenEmbedding = floatsOf(weightOf(model.weights, "model.embed_tokens.weight"));
  const tokenizerFile = packGpt2Tokenizer(
    await readFile(join(options.modelDirectory, "vocab.json"), "utf8"),
    await readFile(join(options.modelDirectory, "merges.txt"), "utf8"),
    model.config.stopIds[0],
  );
  const tokenizer = Tokenizer.fromTensors(tokenizerFile);
  const chatTemplate = await readChatTemplate(options.modelDirectory, tokenizerFile);

  const { corpora, windows } = await readWindows(options, tokenizer, progress);
  const chosen = chooseWindows(windows, options);
  if (chosen.train.length === 0) throw new Error("the corpora hold no document of 80 tokens or more to train on");
  const head = { vocabularySize: V, hiddenSize: D, tokenEmbedding };
  const space = promptSpaceOf(head, chosen.train, options.dimensions);

  const everyWindow = splits.flatMap((split) => chosen[split]);
  const key = hiddenStatesKey(model.weightsHash, everyWindow);
  const trunk = await createTrunkRunner({ config: model.config, weights: model.weights, threads: options.threads });
  progress.stage("hidden states", everyWindow.length);
  const path = join(options.cacheDirectory, `hidden-${key}.f16`);
  const onProgress = (done: number) => progress.advance(done);
  const states = await HiddenStates.open(path, everyWindow, D, trunk, onProgress, signal).finally(() =>
    trunk.release(),
  );

  const sets = {} as Record<Split, WindowSet>;
  let firstState = 0;
  for (const split of splits) {
    sets[split] = { windows: chosen[split], states, firstState };
    firstState += chosen[split].length;
  }
  const close = () => states.close();
  return { model, head, tokenizer, tokenizerFile, chatTemplate, corpora, space, sets, key, close };
}

/** Fits the prompt embedding to training windows, with at most D dimensions. */
function promptSpaceOf(head: HeadWeights, windows: readonly Window[], dimensions: number): PromptSpace {
  const prefixes = windows.map((window) => ({ tokenIds: prefixOf(window), document: documentKey(window) }));
  return fitPromptSpace(head.tokenEmbedding, head.hiddenSize, prefixes, Math.min(dimensions, head.hiddenSize));
}

/** Clusters of the training windows, the table that places text among them, and every split's windows placed by it. */
export interface Placed extends Placement {
  sets: Record<Split, PlacedSet>;
}

/** Clusters the training text. Deterministic by seed. */
export function place(
  { head, sets, space }: Pick<Prepared, "head" | "sets" | "space">,
  clusters: number,
  seed: number,
): Placed {
  const { windows } = sets.train;
  const placement = placeText(foldRows(space, head.tokenEmbedding), windows, {
    dimensions: space.dimensions,
    clusters: Math.min(clusters, windows.length),
    seed,
  });
  const placed = {} as Record<Split, PlacedSet>;
  for (const split of splits) {
    placed[split] = { ...sets[split], embeddings: embedWindows(sets[split].windows, placement.table) };
  }
  return { ...placement, sets: placed };
}

type WindowsBySplit = Record<Split, Window[]>;

async function readWindows(options: PrepareOptions, tokenizer: Tokenizer, progress: Progress) {
  if (options.corpora.length === 0) throw new Error("training needs at least one corpus");
  const windows: WindowsBySplit = { train: [], validation: [], test: [] };
  const corpora: PreparedCorpus[] = [];
  progress.stage("tokens", options.corpora.length);
  for (const [index, source] of options.corpora.entries()) {
    const { documents, ...corpus } = await readCorpus(source);
    const splitOf = splitDocuments(corpus.name, documents);
    let tokens = 0;
    for (const [document, { text }] of documents.entries()) {
      const tokenIds = Int32Array.from(tokenizer.encode(text));
      tokens += tokenIds.length;
      windows[splitOf[document]].push(...windowsOf(index, document, tokenIds));
    }
    corpora.push({ ...corpus, documents: documents.length, tokens });
    progress.advance(index + 1, corpus.name);
  }
  for (const { name, documents, tokens } of corpora) {
    progress.note(`corpus ${name}: ${documents} documents, ${tokens} tokens`);
  }
  return { corpora, windows };
}

function chooseWindows(windows: WindowsBySplit, options: PrepareOptions): WindowsBySplit {
  const random = new Random(options.windowSeed, streams.windows);
  return {
    train: sampleWindows(windows.train, options.trainWindows, random),
    validation: sampleWindows(windows.validation, options.validationWindows, random),
    test: sampleWindows(windows.test, options.testWindows, random),
  };
}

/** A short name for a set of choices, for file names. */
export function keyOf(...choices: unknown[]): string {
  return createHash("sha256").update(JSON.stringify(choices)).digest("hex").slice(0, 16);
}
